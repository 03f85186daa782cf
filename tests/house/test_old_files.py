"""What version 0.1.0 wrote opens as before: caches, runs, streams and kept results.

The files, and what that version's own code read out of them, lie in `written_by_0_1_0/`, whose
README says how they were made. Stored bytes have to be the same; floats that are computed from them
may differ by rounding, as they do between processors.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from analyze.cli import analyze_levels
from analyze.streams_cli import compress_features, decompress_features
from data.reading.level_reader import LevelReader
from extract.cli import extract_features
from train.cli import train_level
from train.runs.checkpoint import load_codec

WRITTEN = Path(__file__).parent / "written_by_0_1_0"
EXPECTED = json.loads((WRITTEN / "expected.json").read_text(encoding="utf-8"))
MODELS = EXPECTED["models"]
MAPS = [(cache, level) for cache, levels in EXPECTED["maps"].items() for level in levels]
CODED = [(run, level) for run, model in MODELS.items() for level in model["levels"]]
STREAMS = ("streams", "streams_of_ensemble")


def name_of(value: str) -> str:
    """A run by the level that it is of; anything else by itself."""
    return Path(value).parent.name if value.startswith("runs/") else value


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder, as that version left it. Read only."""
    folder = tmp_path_factory.mktemp("written_by_0_1_0")
    for archive in WRITTEN.glob("*.tar.xz"):
        with tarfile.open(archive) as content:
            content.extractall(folder, filter="data")
    return folder


@pytest.fixture
def study(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy for commands that write into it, and the working directory, as it was then."""
    folder = tmp_path / "study"
    shutil.copytree(unpacked, folder)
    monkeypatch.chdir(folder)
    return folder


def printed_by(command: click.Command, arguments: str) -> str:
    """Run a command, which has to succeed, and return what it printed."""
    result = CliRunner().invoke(command, [*arguments.split(), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return result.output


def files_below(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run_of(level: int) -> str:
    (run,) = (run for run in MODELS if f"_level_{level}/" in run)
    return run


@pytest.mark.parametrize(("cache", "level"), MAPS)
def test_old_cache_reads_as_the_same_bytes(unpacked: Path, cache: str, level: str) -> None:
    with LevelReader(unpacked / cache, int(level), verify="on_open") as reader:
        hashes = [
            hashlib.sha256(reader.sample(index).tobytes()).hexdigest()
            for index in range(reader.num_samples)
        ]
    assert hashes == EXPECTED["maps"][cache][level]


@pytest.mark.parametrize("cache", EXPECTED["maps"])
def test_old_cache_passes_verification(study: Path, cache: str) -> None:
    features, _, split = cache.rpartition("/")
    output = printed_by(extract_features, f"--features {features} --split {split} --verify")
    assert f"{cache}: whole" in output


def test_old_cache_is_finished_for_extract_features(study: Path) -> None:
    before = files_below(study / "features")
    printed_by(extract_features, "--config study.yaml --split val")
    assert files_below(study / "features") == before


@pytest.mark.parametrize("run", MODELS, ids=name_of)
def test_old_model_says_the_same_of_its_run(unpacked: Path, run: str) -> None:
    _, info = load_codec(unpacked / run / "best_model.pth")
    facts = {key: getattr(info, key) for key in ("model_sha256", "epoch", "best_validation_loss")}
    assert facts == {key: MODELS[run][key] for key in facts}


@pytest.mark.parametrize(("run", "level"), CODED, ids=name_of)
@torch.inference_mode()
def test_old_model_has_the_same_rate_and_distortion(unpacked: Path, run: str, level: str) -> None:
    codec, _ = load_codec(unpacked / run / "best_model.pth", level=int(level))
    squared_error = bits = 0.0
    with LevelReader(unpacked / "features/old/val", int(level)) as reader:
        for index in range(reader.num_samples):
            x = torch.tensor(reader.sample(index)).permute(2, 0, 1)[None].float()
            output = codec(x)
            squared_error += float((output["x_hat"] - x).double().square().sum())
            likelihoods = output["likelihoods"].values()
            bits -= sum(float(each.double().log2().sum()) for each in likelihoods)
    expected = MODELS[run]["levels"][level]
    assert squared_error == pytest.approx(expected["squared_error"], rel=1e-4)
    assert bits == pytest.approx(expected["bits"], rel=1e-4)


def test_training_goes_on_from_an_old_run_as_it_would_have_then(study: Path) -> None:
    printed_by(train_level, f"--config study.yaml --resume {run_of(0)} --epochs 44")
    with (study / run_of(0) / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 45))
    losses = [float(row["train_loss"]) for row in rows[-4:]]
    assert losses == pytest.approx(EXPECTED["train_losses_of_epochs_41_to_44"], rel=1e-3)


def test_old_run_of_the_same_settings_is_known_to_be_finished(study: Path) -> None:
    output = printed_by(
        train_level,
        "--config study.yaml --level 1 --set training.save_dir=runs/fpn "
        "--set model.name=scale_hyperprior --set model.stages=2 "
        "--set model.n_hidden=2 --set model.n_channels=3",
    )
    assert f"{run_of(1)} (finished before)" in output


@pytest.mark.parametrize("streams", STREAMS)
def test_old_streams_decode_to_the_same_maps(study: Path, streams: str) -> None:
    printed_by(decompress_features, f"{streams} --out decoded")
    with np.load(WRITTEN / "decoded.npz") as expected:
        for level in range(5):
            with LevelReader(study / "decoded/val", level) as reader:
                maps = [reader.sample(index).ravel() for index in range(reader.num_samples)]
            # Rounded to float16, so that neighbours of it are as good.
            np.testing.assert_allclose(
                np.concatenate(maps)[::16], expected[f"{streams}/{level}"], rtol=2e-3, atol=1e-4
            )


def test_old_runs_compress_the_features_to_the_same_bytes(study: Path) -> None:
    runs = " ".join(f"--run {run_of(level)}" for level in range(4))
    printed_by(compress_features, f"{runs} --features features/old --out again")
    assert files_below(study / "again") == files_below(study / "streams")


def test_old_ensemble_compresses_the_features_to_the_same_bytes(study: Path) -> None:
    printed_by(
        compress_features, "--ensemble report/ensemble.yaml --features features/old --out again"
    )
    assert files_below(study / "again") == files_below(study / "streams_of_ensemble")


@pytest.mark.usefixtures("undrawn")
def test_analysis_finds_the_old_runs_and_measures_nothing_that_was_kept(study: Path) -> None:
    kept, chosen = files_below(study / "kept"), (study / "report/ensemble.yaml").read_text()
    printed_by(
        analyze_levels,
        "--config study.yaml --features features/old --checkpoints runs --report again "
        "--kept kept --anchors none --target-mse 2.13",
    )
    report = json.loads((study / "again/report.json").read_text(encoding="utf-8"))
    measured = {
        row["measurement"]["run"]: row["model_sha256"]
        for row in report["result"]["rows"]
        if row["measurement"]
    }
    assert measured == {run_of(level): MODELS[run_of(level)]["model_sha256"] for level in range(4)}
    assert files_below(study / "kept") == kept
    assert (study / "again/ensemble.yaml").read_text() == chosen
