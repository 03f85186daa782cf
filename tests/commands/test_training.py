"""Training a level from a real cache: what it leaves on disk, and that it learns as configured."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from configs.errors import UserError
from configs.schema.config import Config
from data.reading.level_reader import LevelReader
from tests.support.forked import result_of
from tests.support.tiny_codecs import NAMES
from tests.support.tiny_study import TinyStudy, tiny_config
from train.codecs.catalogue import build_codec
from train.loop.job import Job
from train.loop.run import train_level
from train.loop.session import make_optimizers
from train.loop.validation import validate
from train.runs.checkpoint import load_codec
from train.runs.metrics import EpochMetrics
from train.runs.run_folder import find_runs

OURS = {"analyze", "configs", "data", "extract", "pycocotools", "train"}


def train_without_detector(options: Sequence[str]) -> list[str]:
    """Return what training imports that it has no use for. To be called in a process of its own."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a detector was built or an image opened while training")

    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    GeneralizedRCNN.__init__ = refuse
    Image.open = refuse
    train_cli = importlib.import_module("train.cli")
    train_cli.train_level(options, standalone_mode=False)
    unused = {"data.images.image_sets", "data.images.scenes", "analyze", "pycocotools"}
    allowed = {
        f"extract.detector{name}"
        for name in (
            "",
            ".freshness",
            ".honest_size",
            ".pytorch_files",
            ".state_dicts",
            ".weights",
        )
    }
    found = {name for name in sys.modules if name in unused or name.startswith("extract.")}
    return sorted(found - allowed)


def train(study: TinyStudy, out: Path, config: Config, level: int = 0) -> Path:
    job = Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=level, config=config,
        device="cpu", out=out / "checkpoints",
    )  # fmt: skip
    return train_level(job)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows_of(run)]


def bash(command: str, folder: Path) -> str:
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="module")
def run(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of level 0 over two epochs, the settings named in the folder's name the defaults'."""
    config = tiny_config(learning_rate=5e-5, batch_size=8)
    return train(study, tmp_path_factory.mktemp("run"), config)


def test_run_folder_is_named_and_filled_as_documented(run: Path) -> None:
    assert run.parent.name == "fpn_specific_level_compression_level_0"
    name = r"run_20\d{6}_\d{6}_lambda_1\.00e-03_lr_5\.00e-05_bs_8"
    assert re.fullmatch(name, run.name), run.name
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    analysis = "level_analysis/level_0/lambda_0.001/epoch_000"
    expected = {
        "best_model.pth",
        "last_model.pth",
        "config.yaml",
        "metrics.csv",
        "run.json",
        "training_summary.txt",
        *(f"training_diagnostics_epoch_{epoch}.txt" for epoch in (1, 2)),
        *(f"{analysis}{epoch}.{kind}" for epoch in (1, 2) for kind in ("json", "png")),
    }
    assert {name for name in found if "tfevents" not in name} == expected
    assert len(found) == len(expected) + 1


def test_the_users_grep_and_cut_give_the_best_validation_loss(run: Path) -> None:
    printed = bash(
        f'summary_file={run}/training_summary.txt; grep "Best Validation Loss:" "$summary_file"'
        " | cut -d' ' -f4",
        run,
    )
    assert printed == f"{min(column(run, 'val_loss')):.4f}\n"


def test_the_users_find_prints_the_summary(run: Path) -> None:
    printed = bash(
        "level=0; find checkpoints/fpn_specific_level_compression_level_$level "
        r"-name training_summary.txt -exec cat {} \;",
        run.parents[2],
    )
    assert printed == (run / "training_summary.txt").read_text()
    for line in ("Level: 0", "Lambda: 0.001", "Epochs Run: 2", "Stopped Because: all epochs done"):
        assert line in printed.splitlines()


def test_metrics_have_one_row_an_epoch_and_loss_is_mse_plus_lambda_bpp(run: Path) -> None:
    rows = rows_of(run)
    assert list(rows[0]) == [field.name for field in fields(EpochMetrics)]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        for split in ("train", "val"):
            loss, mse, bpp = (float(row[f"{split}_{name}"]) for name in ("loss", "mse", "bpp"))
            assert loss == pytest.approx(mse + 0.001 * bpp, rel=1e-5)
        assert 0 <= float(row["data_wait_share"]) <= 1


def test_analysis_follows_the_fixed_val_samples_through_the_epochs(
    run: Path, study: TinyStudy
) -> None:
    folder = run / "level_analysis" / "level_0" / "lambda_0.001"
    entries = [json.loads((folder / f"epoch_000{epoch}.json").read_text()) for epoch in (1, 2)]
    with LevelReader(study.val_cache, 0) as reader:
        assert {entry["file"] for entry in entries[0]} == {
            sample.file for sample in reader.manifest.samples[:2]
        }
        for entry in entries[0]:
            features = reader.sample(entry["sample"]).astype("float32")
            assert entry["original"]["mean"] == pytest.approx(float(features.mean()), rel=1e-3)
            assert entry["original"]["max"] == pytest.approx(float(features.max()))
    assert [e["original"] for e in entries[0]] == [e["original"] for e in entries[1]]
    for entry in entries[0] + entries[1]:
        assert entry["bpp"] > 0
        assert entry["mse"] > 0
        assert entry["norm_ratio"] >= 0
        assert set(entry["decoded"]) == {"mean", "std", "min", "max"}
    with Image.open(folder / "epoch_0001.png") as picture:
        assert picture.mode == "RGB"
        assert picture.width > picture.height / 2


def test_diagnostics_tell_dead_channels_and_quantiles(run: Path) -> None:
    text = (run / "training_diagnostics_epoch_1.txt").read_text()
    assert text.startswith("Epoch: 1\nLearning Rate: 5.000e-05\n")
    assert re.search(r"^Dead channels .*: \d+ of 12$", text, re.MULTILINE)
    assert "Quantile spread: min" in text


def test_saved_config_is_the_whole_config_that_was_used(run: Path) -> None:
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["training"]["lambda"] == 0.001
    assert saved["training"]["batch_size"] == 8
    (found,) = find_runs(run.parents[1])
    assert (found.folder, found.level, found.lmbda) == (run, 0, 0.001)
    assert found.config == tiny_config(learning_rate=5e-5, batch_size=8)


def test_best_model_gives_the_reported_loss_on_whole_maps(run: Path, study: TinyStudy) -> None:
    content = torch.load(run / "best_model.pth", weights_only=True)
    _, info = load_codec(run / "best_model.pth")
    codec = build_codec(info.config.model, 256)
    codec.load_state_dict(content["model_state_dict"])
    losses = column(run, "val_loss")
    assert info.best_validation_loss == pytest.approx(min(losses))
    assert info.epoch == losses.index(min(losses)) + 1
    with LevelReader(study.val_cache, 0) as reader:
        again = validate(codec, reader, 2, 0.001, "cpu")
        with LevelReader(study.train_cache, 0) as train_reader:
            assert info.cache_fingerprint == train_reader.manifest.fingerprint
            assert torch.equal(
                codec.mean[0], torch.from_numpy(train_reader.statistics.mean.copy()).float()
            )
    assert again.loss == pytest.approx(min(losses), rel=1e-5)
    assert float(again.channel_bits.sum()) > 0


@pytest.mark.parametrize("level", [0, 4])
def test_loss_falls_over_the_epochs(study: TinyStudy, tmp_path: Path, level: int) -> None:
    losses = column(train(study, tmp_path, tiny_config(epochs=6), level), "val_loss")
    assert len(losses) == 6
    assert losses[-1] == min(losses) < losses[0]


def test_best_model_stays_when_later_epochs_are_worse(study: TinyStudy, tmp_path: Path) -> None:
    run = train(study, tmp_path, tiny_config(epochs=4, learning_rate=0.02), 4)
    losses = column(run, "val_loss")
    assert losses[-1] > min(losses), "the learning rate is to ruin the last epoch"
    assert load_codec(run / "best_model.pth")[1].epoch == losses.index(min(losses)) + 1


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_gives_the_same_weights_and_another_seed_others(
    study: TinyStudy, tmp_path: Path, name: str
) -> None:
    def weights(seed: int) -> str:
        config = tiny_config(seed=seed, epochs=1)
        model = config.model.model_copy(update={"name": name, "stages": 2})
        run = train(study, tmp_path, config.model_copy(update={"model": model}), 3)
        return load_codec(run / "last_model.pth")[1].model_sha256

    first = weights(5)
    assert weights(5) == first
    assert weights(6) != first


def test_learning_rate_is_halved_on_a_plateau_down_to_min_lr(
    study: TinyStudy, tmp_path: Path
) -> None:
    schedule = {"patience": 1, "factor": 0.5, "min_lr": 3e-8}
    config = tiny_config(epochs=7, learning_rate=1e-7, lr_schedule=schedule)
    rates = column(train(study, tmp_path, config, 4), "learning_rate")
    # Epochs 2 and 3 bring nothing: that is one more than the patience.
    assert rates == pytest.approx([1e-7, 1e-7, 1e-7, 5e-8, 5e-8, 3e-8, 3e-8])
    config = tiny_config(epochs=4, learning_rate=1e-7, lr_schedule=schedule | {"enabled": False})
    rates = column(train(study, tmp_path, config, 4), "learning_rate")
    assert rates == pytest.approx([1e-7] * 4)


def test_cosine_schedule_rises_for_the_warmup_and_falls_to_min_lr(
    study: TinyStudy, tmp_path: Path
) -> None:
    schedule = {"name": "cosine", "warmup_epochs": 2, "min_lr": 1e-4}
    config = tiny_config(epochs=6, learning_rate=9e-4, lr_schedule=schedule)
    rates = column(train(study, tmp_path, config, 4), "learning_rate")
    falling = [1e-4 + 8e-4 * 0.5 * (1 + math.cos(math.pi * n / 4)) for n in range(4)]
    assert rates == pytest.approx([3e-4, 6e-4, *falling])
    off = tiny_config(epochs=2, learning_rate=9e-4, lr_schedule=schedule | {"enabled": False})
    assert column(train(study, tmp_path, off, 4), "learning_rate") == pytest.approx([9e-4] * 2)


def test_training_stops_early_without_progress_of_min_delta(
    study: TinyStudy, tmp_path: Path
) -> None:
    stopping = {"patience": 2, "min_delta": 1e-2}
    config = tiny_config(epochs=9, learning_rate=1e-7, early_stopping=stopping)
    run = train(study, tmp_path, config, 4)
    assert len(rows_of(run)) == 3
    summary = (run / "training_summary.txt").read_text()
    assert "Stopped Because: no progress in 2 validations\n" in summary
    config = tiny_config(epochs=4, learning_rate=1e-7, early_stopping=stopping | {"enabled": False})
    assert len(rows_of(train(study, tmp_path, config, 4))) == 4


def test_slow_steady_progress_that_adds_up_does_not_stop_training(
    study: TinyStudy, tmp_path: Path
) -> None:
    losses = column(train(study, tmp_path, tiny_config(epochs=6), 4), "val_loss")
    falls = [earlier - later for earlier, later in itertools.pairwise(losses)]
    min_delta = 1.5 * min(falls)
    assert min_delta < losses[0] - losses[2], "two epochs together are progress, one is not"
    stopping = {"patience": 2, "min_delta": min_delta}
    config = tiny_config(epochs=6, early_stopping=stopping)
    assert len(rows_of(train(study, tmp_path, config, 4))) == 6


def test_validation_interval_leaves_the_epochs_between_unvalidated(
    study: TinyStudy, tmp_path: Path
) -> None:
    config = tiny_config(epochs=5)
    validation = config.validation.model_copy(update={"interval": 2, "num_samples": 0})
    run = train(study, tmp_path, config.model_copy(update={"validation": validation}), 4)
    assert [bool(row["val_loss"]) for row in rows_of(run)] == [False, True, False, True, True]
    assert not (run / "level_analysis").exists()


def test_quantiles_are_in_the_auxiliary_optimiser_only() -> None:
    config = tiny_config()
    codec = build_codec(config.model, 16)
    main, auxiliary = (
        [id(p) for group in optimizer.param_groups for p in group["params"]]
        for optimizer in make_optimizers(codec, config)
    )
    assert auxiliary == [id(codec.entropy_bottleneck.quantiles)]
    assert sorted(main + auxiliary) == sorted(id(p) for p in codec.parameters())


def test_loss_that_is_no_number_says_to_lower_the_learning_rate(
    study: TinyStudy, tmp_path: Path
) -> None:
    config = tiny_config(epochs=3, learning_rate=1e10)
    message = (
        r"^level 0: the loss became nan or infinite at step \d+ \(images [\d, ]+\): the "
        r"checkpoints are of before it; lower training\.learning_rate, or training\.optimizer\."
    )
    with pytest.raises(UserError, match=message):
        train(study, tmp_path, config)


def test_no_detector_is_built_and_no_image_opened_while_training(
    study: TinyStudy, tmp_path: Path
) -> None:
    options = [
        "--level", "4", "--config", str(study.config_file), "--features", str(study.root),
        "--epochs", "1", "--log-level", "warning", "--out", str(tmp_path),
    ]  # fmt: skip
    assert result_of(train_without_detector, options) == []
    (run,) = find_runs(tmp_path)
    assert math.isfinite(column(run.folder, "val_loss")[0])
