"""The examples run as they are on a tiny study."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.doors import PACKAGES
from tests.support.coded_study import make_run
from tests.support.tiny_study import TinyStudy
from train.loop.job import Job
from train.loop.run import train_level

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def run_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run one where a user would; return what it printed.

    In this process, where nothing has to be imported.
    """

    def run(name: str, *arguments: Path | str) -> str:
        script = str(ROOT / "examples" / f"{name}.py")
        monkeypatch.setattr("sys.argv", [script, *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_says_what_it_shows_and_hides_no_package(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith('"""')
    assert path.stem not in PACKAGES


def test_cache_in_a_loop_of_ones_own_is_learned_from(
    study: TinyStudy, run_example: Callable[..., str]
) -> None:
    losses = [
        float(line.split("loss ")[1])
        for line in run_example("own_loop", study.train_cache, "4").splitlines()
    ]
    assert len(losses) == 2
    assert losses[1] < losses[0]


def test_trained_model_packs_a_tensor(
    study: TinyStudy, tmp_path: Path, run_example: Callable[..., str]
) -> None:
    run = make_run(tmp_path / "run", study, 3)
    told = run_example("trained_model", run, study.val_cache)
    assert told.startswith("level 3, lambda 0.001: (1, 256, ")
    assert "mean squared error " in told


def test_analysis_from_python_tells_what_the_trained_level_costs(
    study: TinyStudy,
    tmp_path: Path,
    undrawn: None,
    run_example: Callable[..., str],
) -> None:
    job = Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=3, config=study.config,
        device="cpu", out=tmp_path / "checkpoints",
    )  # fmt: skip
    train_level(job)
    told = run_example("analysis", study.config_file, study.root, job.out)
    assert re.search(r"^level 3: \d+\.\d+ bpp, mAP \d\.\d+$", told, flags=re.MULTILINE), told
    assert "missing: " in told  # the levels that were not trained
