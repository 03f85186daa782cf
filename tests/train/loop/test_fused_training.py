"""All levels are trained in one: from their caches, to the bit, with figures of each level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import ConfigError
from data.reading.whole_maps import whole_map_batches
from tests.support.fused_runs import Fused
from tests.support.fused_runs import fused as fused
from tests.support.training_process import Asked, differences, rows_without_times, training_state
from train.codecs.fused_pyramid import FusedPyramid
from train.loop.epoch_end import LEVELS_NAME
from train.loop.job import make_codec, make_stream, open_caches, stream_settings
from train.loop.run import train_level
from train.loop.validation import validate_pyramid
from train.machine.distributed import ALONE, World
from train.machine.interruption import TrainingInterruptedError
from train.objective.pyramid_loss import pyramid_rate_distortion
from train.objective.rate_distortion import channel_weighted, square_error
from train.runs.checkpoint import BEST_NAME, LAST_NAME, load_codec
from train.runs.metrics import read_rows
from train.runs.run_folder import find_fused_runs, find_random_runs, find_runs
from train.runs.run_record import RunRecord
from train.study.lock_step import train_together

CODED = (0, 1, 2, 3)
"""Level 4 of the tiny cache is derived."""


def test_a_run_codes_all_levels_that_are_not_derived_and_says_what_each_of_them_is(
    fused: Fused,
) -> None:
    codec, info = load_codec(fused.run / BEST_NAME)
    assert isinstance(codec, FusedPyramid)
    assert info.levels == CODED
    assert info.config.model.name == "fused_pyramid"
    assert codec.pyramid.strides == (1, 2, 4, 8) and codec.stride == 16
    with open_caches(fused.job(fused.run)) as caches:
        for row, reader in enumerate(caches.train):
            mean = torch.tensor(reader.statistics.mean)
            torch.testing.assert_close(codec.mean[row], mean, check_dtype=False)
    assert RunRecord.load(fused.run).level == "fused"
    out = fused.run.parents[1]
    assert find_fused_runs(out) == [fused.run]
    assert not find_runs(out) and not find_random_runs(out)


def test_figures_are_of_each_level_and_their_mean_is_the_runs(fused: Fused) -> None:
    rows = rows_without_times(fused.run)
    of_levels = read_rows(fused.run / LEVELS_NAME, 5)
    last = [[float(value) for value in row] for row in of_levels if row[0] == rows[-1]["epoch"]]
    assert [int(row[1]) for row in last] == list(CODED)
    assert float(rows[-1]["val_mse"]) == pytest.approx(sum(row[3] for row in last) / 4)
    assert {row[4] for row in last} == {float(rows[-1]["val_bpp"])}
    pictures = sorted((fused.run / "level_analysis").glob("level_*/*/*.png"))
    assert {path.parts[-3] for path in pictures} == {f"level_{level}" for level in CODED}


def test_interrupted_it_ends_with_the_weights_of_one_that_nobody_disturbed(
    fused: Fused, tmp_path: Path
) -> None:
    job = fused.job(tmp_path)
    with pytest.raises(TrainingInterruptedError):
        train_level(job, stop=Asked(2))  # type: ignore[arg-type]
    (folder,) = tmp_path.glob("*_level_fused/run_*")
    train_level(replace(job, resume=folder))
    states = [training_state(run / LAST_NAME) for run in (fused.run, folder)]
    assert not differences(*states)
    assert rows_without_times(fused.run) == rows_without_times(folder)


def test_runs_of_several_lambdas_follow_one_stream_and_may_begin_from_each_other(
    fused: Fused, tmp_path: Path
) -> None:
    jobs = [fused.job(tmp_path, lmbda=lmbda, epochs=1).settled() for lmbda in (0.001, 0.1)]
    assert stream_settings(jobs[0]) == stream_settings(jobs[1])
    jobs[1] = replace(jobs[1], warm_start=fused.run)
    ended = list(train_together(jobs, Asked(10**9)))  # type: ignore[arg-type]
    of_lambda = {job.config.training.lmbda: end for job, end in ended}
    cold, warm = of_lambda[0.001], of_lambda[0.1]
    assert isinstance(cold, Path) and isinstance(warm, Path)
    first = [float(rows_without_times(run)[0]["train_mse"]) for run in (warm, cold)]
    assert first[0] < first[1]


def test_the_stream_yields_matching_places_of_all_levels(fused: Fused, tmp_path: Path) -> None:
    job = fused.job(tmp_path).settled()
    with open_caches(job) as caches:
        codec = make_codec(job, caches)
        batch = next(iter(make_stream(job, caches, ALONE)))
        assert [len(each.beside) for each in (batch,)] == [3]
        for stride, beside, reader in zip((2, 4, 8), batch.beside, caches.train[1:], strict=True):
            top, left = (batch.corners[0] // stride).tolist()
            there = torch.tensor(reader.sample(int(batch.indices[0]))[top, left])
            assert torch.equal(beside[0, :, 0, 0], there)
    assert isinstance(codec, FusedPyramid)


def test_loss_is_the_mean_of_the_levels_distortions_and_lambda_times_all_bits() -> None:
    maps = [torch.zeros(1, 4, 6, 6), torch.zeros(1, 2, 3, 3)]
    x_hat = [torch.full((1, 4, 6, 6), 2.0), torch.full((1, 2, 3, 3), 3.0)]
    output = {"x_hat": x_hat, "likelihoods": {"y": torch.full((1, 10, 1, 1), 0.5)}}
    sizes = torch.tensor([[5, 4]])
    loss, mse, bpp = pyramid_rate_distortion(
        output, maps, sizes, (1, 2), 0.1, [square_error, channel_weighted(torch.tensor([2.0, 0]))]
    )
    assert float(mse) == pytest.approx((4 + 9) / 2)
    assert float(bpp) == pytest.approx(10 / 20)
    assert float(loss) == pytest.approx((4 + 9) / 2 + 0.05)


def test_validation_weighs_each_position_of_a_level_alike(fused: Fused, tmp_path: Path) -> None:
    job = fused.job(tmp_path).settled()
    codec, _ = load_codec(fused.run / BEST_NAME)
    assert isinstance(codec, FusedPyramid)
    with open_caches(job) as caches, torch.inference_mode():
        finest, beside = caches.val[0], caches.beside.val
        parts = validate_pyramid(
            codec, finest, 2, 0.5, "cpu", distortions=[square_error] * 4, beside=beside
        )
        errors = torch.zeros(4, 2)
        for batch in whole_map_batches(finest, 1, beside=beside):
            maps = [each.float() for each in (batch.features, *batch.beside)]
            for row, (x, x_hat) in enumerate(zip(maps, codec(maps)["x_hat"], strict=True)):
                errors[row] += torch.tensor([float((x - x_hat).square().sum()), x.numel()])
    assert [part.mse for part in parts] == pytest.approx((errors[:, 0] / errors[:, 1]).tolist())
    assert [part.loss - part.mse for part in parts] == pytest.approx([0.5 * parts[0].bpp] * 4)


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({"context": ["runs/run_1"]}, r"training.context \(--context\) is for codecs of single"),
        ({"context_on_the_fly": True}, "--context-on-the-fly"),
        ({"distortion": "detector"}, "training.distortion: detector is for codecs of single"),
        ({"detection_loss": {}}, "training.detection_loss is for codecs of single levels"),
    ],
)
def test_what_is_of_single_levels_is_refused(
    fused: Fused, tmp_path: Path, training: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        fused.job(tmp_path, **training).settled()


def test_the_model_of_all_levels_is_refused_for_one_and_for_several_processes(
    fused: Fused, tmp_path: Path
) -> None:
    job = fused.job(tmp_path)
    single = replace(job.settled(), level=1)
    with pytest.raises(ConfigError, match="codes all levels in one: train it with --level fused"):
        single.settled()
    with pytest.raises(ConfigError, match="in one process: run it without torchrun"):
        train_level(job, world=World(rank=0, size=2))
    with pytest.raises(ConfigError, match="beside level 2 goes one of level 3 alone"):
        fused.job(tmp_path, level=2, context=[str(fused.run)]).settled()
