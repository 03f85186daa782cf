"""The example of a codec of one's own is trained, analysed, and codes features, by its name."""

from __future__ import annotations

import csv
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from analyze.cli import analyze_levels
from analyze.streams_cli import compress_features, decompress_features
from data.reading.level_reader import LevelReader
from tests.support.coded_study import make_run
from tests.support.tiny_study import TinyStudy
from train.cli import train_level
from train.runs.checkpoint import BEST_NAME, load_codec
from train.runs.run_folder import find_runs
from train.testing import check_codec

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "own_codec:LightDecoder"


def run(command: click.Command, *arguments: object) -> str:
    """Run a command in the folder of the examples; it has to succeed. Return what it printed."""
    result = CliRunner().invoke(command, [str(each) for each in (*arguments, "--device", "cpu")])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(autouse=True)
def in_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)


def test_the_example_keeps_the_contract() -> None:
    check_codec(NAME)
    check_codec(NAME, stages=1, options={"width": 16})


def test_a_codec_that_knows_no_mixed_quantization_is_not_trained_as_if_it_did(
    study: TinyStudy, tmp_path: Path
) -> None:
    wanted = [f"model.name={NAME}", "training.quantization=mixed"]
    result = CliRunner().invoke(
        train_level,
        [
            "--config", str(study.config_file), "--features", str(study.root), "--level", "3",
            "--out", str(tmp_path), "--device", "cpu", *(f"--set={each}" for each in wanted),
        ],
    )  # fmt: skip
    assert result.exit_code == 1
    (line,) = [each for each in result.output.splitlines() if "quantization" in each]
    assert f"the codec {NAME} does not know it: let its noisy_latents return" in line
    assert not find_runs(tmp_path)


def test_the_example_is_trained_analysed_and_codes_features(
    study: TinyStudy, tmp_path: Path, undrawn: None
) -> None:
    runs, report, streams = tmp_path / "runs", tmp_path / "report", tmp_path / "streams"
    settings = ("--config", study.config_file, "--features", study.root)
    chosen = ("--set", f"model.name={NAME}", "--set", "model.options.width=16")
    run(train_level, *settings, *chosen, "--level", 3, "--out", runs, "--epochs", 2)
    (trained,) = find_runs(runs)
    _, info = load_codec(trained.folder / BEST_NAME, trust_code=True)
    assert (info.config.model.name, info.config.model.options) == (NAME, {"width": 16})
    again = run(train_level, *settings, *chosen, "--level", 3, "--out", runs, "--epochs", 2)
    assert "(finished before)" in again

    run(train_level, *settings, "--level", 3, "--out", runs, "--epochs", 1)
    analysed = ("--checkpoints", runs, "--report", report, "--anchors", "none", "--trust-code")
    run(analyze_levels, *settings, *analysed)
    with (report / "levels.csv").open(newline="") as file:
        rows = {row["learner"]: row for row in csv.DictReader(file) if row["level"] == "3"}
    learner = f"{NAME}(width=16)"
    assert rows.keys() == {learner, "factorized_prior_specific_level"}
    assert float(rows[learner]["real_bpp"]) > float(rows[learner]["estimated_bpp"]) > 0
    assert rows[learner]["map"] != ""
    for page in ("report.md", "index.html"):
        assert learner in (report / page).read_text(encoding="utf-8")

    others = [make_run(tmp_path / f"level_{level}", study, level) for level in (0, 1, 2, 4)]
    chosen_runs = [option for each in (trained.folder, *others) for option in ("--run", each)]
    given = ("--features", study.root, "--out", streams, *chosen_runs)
    run(compress_features, *given, "--trust-code")
    run(decompress_features, streams, "--out", tmp_path / "decoded", "--trust-code")
    with (
        LevelReader(study.val_cache, 3) as original,
        LevelReader(tmp_path / "decoded/val", 3) as decoded,
    ):
        x, x_hat = original.sample(0), decoded.sample(0)
    assert x_hat.shape == x.shape
    assert np.isfinite(x_hat).all()
    assert x_hat.std() > 0
