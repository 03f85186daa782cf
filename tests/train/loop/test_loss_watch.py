"""What stops a training or makes it speak up: no number, no rate, no memory, large features."""

from __future__ import annotations

import errno
import logging
import math
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import MachineError, UserError
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch
from tests.support.extraction import TinyCache, must_extract
from tests.support.tiny_study import TinyStudy, tiny_config
from tests.support.training_process import training_state
from train.loop import epoch_end
from train.loop.job import Job
from train.loop.loss_watch import LossWatch, warn_of_large_features, warn_of_small_crop
from train.loop.run import train_level
from train.loop.saver import Saver


def job_of(study: TinyStudy, out: Path, level: int = 4, **training: Any) -> Job:
    return Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=level,
        config=tiny_config(**training), device="cpu", out=out,
    )  # fmt: skip


def batch_of(level: int, *indices: int) -> Batch:
    return Batch(
        features=torch.zeros(0), indices=torch.tensor(indices), sizes=torch.zeros(0),
        corners=torch.zeros(0), level=level, first_row=0, batch_rows=len(indices),
        batch_positions=0,
    )  # fmt: skip


@pytest.mark.parametrize("each_step", [True, False])
def test_loss_that_becomes_nan_names_step_level_and_images_and_keeps_the_checkpoint(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each_step: bool
) -> None:
    real = Saver.save
    real_init = LossWatch.__init__

    def init(watch: LossWatch, readers: Sequence[LevelReader], device: str) -> None:
        real_init(watch, readers, device)
        watch._on_cpu = each_step  # a GPU is not asked each step, but before each save

    monkeypatch.setattr(LossWatch, "__init__", init)
    saved = 0

    def save_and_spoil(saver: Saver) -> None:
        nonlocal saved
        real(saver)
        saved += 1
        if saved == 4:
            with torch.no_grad():
                next(saver._session.codec.g_a.parameters()).fill_(math.nan)

    monkeypatch.setattr(Saver, "save", save_and_spoil)
    job = job_of(study, tmp_path, epochs=5, save_interval_s=0.0)
    pattern = r"^level 4: the loss became nan or infinite at step \d \(images (\d+), (\d+)"
    with pytest.raises(UserError, match=pattern) as caught:
        train_level(job)
    assert "lower training.learning_rate" in str(caught.value)
    (run,) = tmp_path.glob("*/run_*")
    content = training_state(run / "last_model.pth")
    assert all(bool(torch.isfinite(value).all()) for value in content["model_state_dict"].values())
    with LevelReader(study.train_cache, 4) as reader:
        ids = {str(sample.image_id) for sample in reader.manifest.samples}
    named = str(caught.value).split("(images ")[1].split(")")[0].split(", ")
    assert set(named) <= ids


def test_device_that_is_not_asked_each_step_still_gives_the_first_bad_one(
    study: TinyStudy,
) -> None:
    with LevelReader(study.train_cache, 2) as reader:
        watch = LossWatch([reader], "meta")
        watch._first_bad = torch.tensor(math.inf)  # a device that answers late, on this one
        ids = [sample.image_id for sample in reader.manifest.samples]
        for step, loss in enumerate([1.0, 2.0, math.nan, math.inf, 1.0], start=1):
            watch.see(step, batch_of(2, step - 1), torch.tensor(loss))
        with pytest.raises(UserError, match=rf"at step 3 \(images {ids[2]}\)"):
            watch.look()


def test_large_features_are_warned_of_and_usual_ones_are_not(
    study: TinyStudy, caplog: pytest.LogCaptureFixture
) -> None:
    with LevelReader(study.train_cache, 0) as reader, caplog.at_level(logging.WARNING):
        warn_of_large_features(reader)
        assert caplog.text == ""
        minimum = reader.statistics.minimum.copy()
        minimum[7] = -250.0
        object.__setattr__(reader.statistics, "minimum", minimum)
        warn_of_large_features(reader)
    assert "level 0: features are large (|x| up to 250, channel 7)" in caplog.text


@pytest.mark.parametrize(
    ("level", "crop", "stride", "is_told"),
    [
        (0, 8, 4, True),
        (0, 16, 4, False),
        (0, None, 16, False),  # whole maps
        (4, 8, 4, False),  # which are whole, too
    ],
)
def test_crops_of_few_latents_are_warned_of_where_maps_are_larger(
    study: TinyStudy, caplog: pytest.LogCaptureFixture, level: int, crop: int | None, stride: int,
    is_told: bool,
) -> None:  # fmt: skip
    with LevelReader(study.train_cache, level) as reader, caplog.at_level(logging.WARNING):
        warn_of_small_crop(reader, crop, stride)
    told = "level 0: crops of 8 positions have 2 latents a side, almost all at an edge"
    assert (told in caplog.text) is is_told
    assert bool(caplog.text) is is_told
    if is_told:
        assert "choose a crop of 16 at least, or fewer model.stages" in caplog.text


def test_stored_crops_of_few_latents_are_warned_of(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = must_extract(zarr_cache.config, tmp_path, "--crop", "8")
    told: list[str] = []  # the command has taken the log for itself
    monkeypatch.setattr(
        "train.loop.loss_watch.log.warning", lambda text, *given: told.append(text % given)
    )
    with LevelReader(folder, 0) as reader:
        warn_of_small_crop(reader, None, 4)
    assert told[0].startswith("level 0: crops of 8 positions have 2 latents a side")


def test_rate_that_collapses_is_told_once_with_the_lambda_that_theory_names(
    study: TinyStudy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(
        study,
        tmp_path,
        epochs=120,
        learning_rate=0.05,
        lmbda=1e4,
        early_stopping={"enabled": False},
    )
    undrawn = job.config.validation.model_copy(update={"num_samples": 0})
    with caplog.at_level(logging.WARNING):
        train_level(replace(job, config=job.config.model_copy(update={"validation": undrawn})))
    said = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert len(said) == 1
    with LevelReader(study.train_cache, 4) as reader:
        variance = reader.statistics.variance
    low = 2 * math.log(2) * float(variance.max()) / len(variance)
    high = 2 * math.log(2) * float(variance.mean())
    assert f"between {low:.2g} (independent channels) and {high:.2g} (one common" in said[0]
    assert np.isfinite(low)


def test_disk_full_before_a_run_begins_is_one_line(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("train.runs.run_folder.write_atomically", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): make r"):
        train_level(job_of(study, tmp_path))


def test_disk_that_takes_no_more_is_one_line_and_the_run_goes_on_later(
    study: TinyStudy, tmp_path: Path
) -> None:
    job = job_of(study, tmp_path, epochs=2, save_interval_s=0.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(.*the same command goes on"):
            train_level(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (run,) = tmp_path.glob("*/run_*")
    assert not list(run.glob("*.part"))
    assert train_level(replace(job, resume=run)) == run
    assert training_state(run / "last_model.pth")["epoch"] == 2


def test_lack_of_memory_while_whole_maps_are_validated_does_not_blame_the_batch(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(epoch_end, "validate", lacking)
    with pytest.raises(
        MachineError,
        match=r"^out of memory: level 4 is validated on whole maps, of up to 2 x 2 x 256 values.*"
        r"fewer --jobs.*can't allocate memory",
    ):
        train_level(job_of(study, tmp_path, epochs=1))
