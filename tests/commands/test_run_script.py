"""run_train_factorized_prior_specific_level_fpn.sh as a user starts it, two at once included."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.config_files import load_config
from tests.support.forked_commands import forked_commands
from tests.support.tiny_study import save_detector
from train.runs.run_folder import find_runs

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "run_train_factorized_prior_specific_level_fpn.sh"
LEVELS = ("0", "4")
NUM_SCENES = {"train": 3, "val": 2}

TINY_YAML = f"""
data:
  splits:
    train: {{num_scenes: {NUM_SCENES["train"]}, scene_seed: 1}}
    val: {{num_scenes: {NUM_SCENES["val"]}, scene_seed: 2}}
detector: {{min_size: 96, max_size: 128}}
model: {{n_hidden: 8, n_channels: 12}}
training:
  epochs: 1
  learning_rate: 5e-5
  lambda: 0.001
"""


def start(
    folder: Path, *options: str, commands: Path = Path(sys.executable).parent
) -> subprocess.Popen[str]:
    """Start the script in a folder, with this environment's commands on the PATH, or others."""
    environment = os.environ | {
        "PATH": f"{commands}:/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.Popen(
        [str(SCRIPT), *options], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait; return exit code, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def test_help_names_every_option(tmp_path: Path) -> None:
    code, stdout, stderr = outcome(start(tmp_path, "--help"))
    assert (code, stderr) == (0, "")
    assert stdout.startswith(f"Usage: {SCRIPT.name} --level <0|1|2|3|4>")
    for option in ("--level", "--config CONFIG_FILE", "--detection_checkpoint CHECKPOINT"):
        assert option in stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--level is required: 0, 1, 2, 3 or 4"),
        (("--level", "5"), "--level 5: must be 0, 1, 2, 3 or 4"),
        (("--level", "all"), "--level all: must be 0, 1, 2, 3 or 4"),
        (("--level",), "--level needs a value"),
        (("--level", "--config", "x.yaml"), "--level needs a value"),
        (("--level", "0", "--config"), "--config needs a value"),
        (("--level", "0", "--detection_checkpoint"), "--detection_checkpoint needs a value"),
        (("--level", "0", "--epochs", "3"), "unknown option '--epochs': see --help"),
        (("0",), "unknown option '0': see --help"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_mistake_is_one_line_and_nothing_is_written(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    assert outcome(start(tmp_path, *options)) == (2, "", f"error: {message}\n")
    assert not list(tmp_path.iterdir())


def test_missing_commands_say_what_to_install(tmp_path: Path) -> None:
    alone = Path(shutil.copy(SCRIPT, tmp_path))
    done = subprocess.run(
        [str(alone), "--level", "0"], env={"PATH": "/usr/bin:/bin"}, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        2,
        "error: extract-features is not installed: run pip install -e .\n",
    )


def test_checkpoint_that_is_not_there_stops_before_training(tmp_path: Path) -> None:
    code, stdout, stderr = outcome(
        start(tmp_path, "--level", "0", "--detection_checkpoint", "gone")
    )
    assert (code, stdout) == (1, "")
    assert re.fullmatch(r"Error: .*gone.*\n", stderr), stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str, str]]]:
    """Two scripts started at once in a folder without caches, after the guide's `sed`."""
    folder = tmp_path_factory.mktemp("two_at_once")
    save_detector(folder / "detector.pth")
    (folder / "tiny.yaml").write_text(TINY_YAML, encoding="utf-8")
    subprocess.run(
        ["bash", "-c", "sed 's/lambda: 0.001/lambda: 0.0005/' tiny.yaml > temp_config.yaml"],
        cwd=folder,
        check=True,
    )
    spellings = ("--detection_checkpoint", "--detection-checkpoint")
    options = ("--config", "temp_config.yaml")
    with forked_commands(tmp_path_factory.mktemp("commands")) as commands:
        processes = [
            start(folder, "--level", level, *options, spelling, "detector.pth", commands=commands)
            for level, spelling in zip(LEVELS, spellings, strict=True)
        ]
        return folder, [outcome(process) for process in processes]


def test_two_at_once_all_finish(finished: tuple[Path, list[tuple[int, str, str]]]) -> None:
    for code, _, stderr in finished[1]:
        assert code == 0, stderr
        assert "Traceback" not in stderr


def test_two_at_once_share_one_extraction(
    finished: tuple[Path, list[tuple[int, str, str]]],
) -> None:
    folder, outcomes = finished
    assert [path.name for path in (folder / "features").iterdir()] == ["scenes"]
    for split, count in NUM_SCENES.items():
        cache = f"features/scenes/{split}"
        reports = [
            line
            for _, stdout, _ in outcomes
            for line in stdout.splitlines()
            if line.startswith(f"{split}: ")
        ]
        skipped = f"{split}: all {count} images are in {cache} already"
        assert len(reports) == 2
        assert reports.count(skipped) == 1
        (extracted,) = set(reports) - {skipped}
        assert extracted.startswith(f"{split}: {count} images, ")
        assert extracted.endswith(f" -> {cache}")


def test_each_of_the_two_leaves_its_own_run(
    finished: tuple[Path, list[tuple[int, str, str]]],
) -> None:
    folder, outcomes = finished
    runs = find_runs(folder / "checkpoints")
    assert [str(run.level) for run in runs] == list(LEVELS)
    for run, (_, stdout, _) in zip(runs, outcomes, strict=True):
        assert "_lambda_5.00e-04_lr_5.00e-05_bs_8" in run.folder.name
        assert (run.folder / f"level_analysis/level_{run.level}/lambda_0.0005").is_dir()
        assert "Best Validation Loss: " in (run.folder / "training_summary.txt").read_text()
        relative = run.folder.relative_to(folder)
        assert stdout.splitlines()[-1] == f"level {run.level}, lambda 0.0005 -> {relative}"


def test_the_guides_sed_changes_lambda_in_the_packaged_file(tmp_path: Path) -> None:
    packaged = "configs/train_factorized_prior_specific_level_fpn.yaml"
    target = tmp_path / "temp_config.yaml"
    command = f"sed 's/lambda: 0.001/lambda: 0.0005/' {packaged} > {target}"
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True)
    assert load_config(str(target)).training.lmbda == 0.0005
