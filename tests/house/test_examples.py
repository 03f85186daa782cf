"""The examples run as they are, as scripts, on a tiny study."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from configs.doors import PACKAGES
from tests.support.coded_study import make_run
from tests.support.tiny_study import TinyStudy
from train.loop.job import Job
from train.loop.run import train_level

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run_example(name: str, folder: Path, *arguments: Path | str) -> str:
    """Run one where a user would; return what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_says_what_it_shows_and_hides_no_package(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith('"""')
    assert path.stem not in PACKAGES


def test_cache_in_a_loop_of_ones_own_is_learned_from(study: TinyStudy, tmp_path: Path) -> None:
    losses = [
        float(line.split("loss ")[1])
        for line in run_example("own_loop", tmp_path, study.train_cache, "4").splitlines()
    ]
    assert len(losses) == 2
    assert losses[1] < losses[0]


def test_trained_model_packs_a_tensor(study: TinyStudy, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", study, 3)
    told = run_example("trained_model", tmp_path, run, study.val_cache)
    assert told.startswith("level 3, lambda 0.001: (1, 256, ")
    assert "mean squared error " in told


def test_analysis_from_python_tells_what_the_trained_level_costs(
    study: TinyStudy,
    tmp_path: Path,
    undrawn: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=3, config=study.config,
        device="cpu", out=tmp_path / "checkpoints",
    )  # fmt: skip
    train_level(job)
    # In this process, where nothing has to be imported and drawn.
    script = str(ROOT / "examples/analysis.py")
    arguments = [script, str(study.config_file), str(study.root), str(job.out)]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(script, run_name="__main__")
    told = capsys.readouterr().out
    assert re.search(r"^level 3: \d+\.\d+ bpp, mAP \d\.\d+$", told, flags=re.MULTILINE), told
    assert "missing: " in told  # the levels that were not trained
