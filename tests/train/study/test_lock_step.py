"""Runs that take the same batches at once: each becomes what it becomes alone, to the last bit."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.schema.config import Config
from data.reading.epoch_tiles import Epoch
from tests.support.extraction import TinyCache
from tests.support.tiny_study import TinyStudy, tiny_config
from tests.support.training_process import differences, rows_without_times, training_state
from train.loop import feeding, steps
from train.loop.job import Job
from train.loop.loss_watch import LossWatch
from train.machine.distributed import ALONE
from train.runs.run_record import RunRecord
from train.study.chain import RunOutcome, chains_of
from train.study.study import run_study

LAMBDAS = (0.001, 0.01, 0.1)


def job_of(cache: TinyCache, out: Path, lmbda: float, device: str = "cpu", **more: Any) -> Job:
    """A run that draws all that a run can draw: cutmix, noise on the features and the latents."""
    drawing = {"cutmix": 0.5, "input_noise": 0.1}
    training = {"lmbda": lmbda, "batch_size": 3, "epochs": 3, **drawing, **more}
    config = tiny_config(**training)
    no_pictures = config.validation.model_copy(update={"num_samples": 0})
    return Job(
        train_cache=cache.folder, val_cache=cache.folder, level=4, device=device, out=out,
        config=config.model_copy(update={"validation": no_pictures}),
    )  # fmt: skip


def jobs_of(cache: TinyCache, out: Path, **more: Any) -> list[Job]:
    return [job_of(cache, out, lmbda, **more) for lmbda in LAMBDAS]


def with_training(config: Config, **changed: Any) -> Config:
    training = config.training.model_copy(update=changed)
    return config.model_copy(update={"training": training})


def trained(jobs: Sequence[Job], lock_step: bool) -> list[RunOutcome]:
    """How the runs ended, in the order of the jobs."""
    ended = list(
        run_study(jobs, go_on=True, num_jobs=1, log_level="info", world=ALONE, lock_step=lock_step)
    )
    assert len(ended) == len(jobs)
    return sorted(ended, key=lambda end: [job.config for job in jobs].index(end.job.config))


def assert_same_runs(one: Sequence[RunOutcome], other: Sequence[RunOutcome]) -> None:
    for mine, its in zip(one, other, strict=True):
        assert mine.folder is not None and its.folder is not None, (mine.error, its.error)
        files = [training_state(each.folder / "last_model.pth") for each in (mine, its)]  # type: ignore[operator]
        files = [{key: file[key] for key in file if key != "config"} for file in files]
        assert not differences(*files)
        assert rows_without_times(mine.folder) == rows_without_times(its.folder)
        assert (mine.folder / "best_model.pth").is_file()
        assert RunRecord.load(mine.folder).finished == RunRecord.load(its.folder).finished


@pytest.fixture(scope="module")
def alone(zarr_cache: TinyCache, tmp_path_factory: pytest.TempPathFactory) -> list[RunOutcome]:
    return trained(jobs_of(zarr_cache, tmp_path_factory.mktemp("alone")), lock_step=False)


@pytest.fixture
def num_fills(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many blocks of batches have been read."""
    count, fill = [0], Epoch.fill

    def counted(self: Epoch, *given: Any) -> Any:
        count[0] += 1
        return fill(self, *given)

    monkeypatch.setattr(Epoch, "fill", counted)
    return count


def stop_after(patch: pytest.MonkeyPatch, num_steps: int) -> None:
    """Ask this process to stop in the step of that number, of all runs together."""
    see, seen = LossWatch.see, [0]

    def counted(self: LossWatch, *given: Any) -> None:
        seen[0] += 1
        if seen[0] == num_steps:
            os.kill(os.getpid(), signal.SIGTERM)
        see(self, *given)

    patch.setattr(LossWatch, "see", counted)


def test_runs_become_what_they_become_alone_and_each_batch_is_read_once(
    zarr_cache: TinyCache, tmp_path: Path, alone: list[RunOutcome], num_fills: list[int]
) -> None:
    together = trained(jobs_of(zarr_cache, tmp_path / "together"), lock_step=True)
    fills_together, num_fills[0] = num_fills[0], 0
    assert_same_runs(together, alone)
    trained([job_of(zarr_cache, tmp_path / "one", LAMBDAS[0])], lock_step=True)
    assert fills_together == num_fills[0]


def test_runs_that_ask_the_detector_and_quantize_in_two_ways_are_those_that_are_trained_alone(
    study: TinyStudy, tmp_path: Path
) -> None:
    """One holds detector and rounding of its own beside one that has neither."""
    own = {"distortion": "object_weighted", "quantization": "mixed"}
    ends = []
    for lock_step in (True, False):
        jobs = [
            Job(
                train_cache=study.train_cache, val_cache=study.val_cache, level=3, device="cpu",
                out=tmp_path / str(lock_step),
                config=with_training(study.config, lmbda=lmbda, epochs=1, **more),
            )
            for lmbda, more in ((0.001, own), (0.01, {}))
        ]  # fmt: skip
        ends.append(trained(jobs, lock_step))
    assert_same_runs(*ends)


def test_run_that_stops_early_and_one_that_fails_leave_the_others_going(
    zarr_cache: TinyCache, tmp_path: Path, alone: list[RunOutcome]
) -> None:
    stopping = {"enabled": True, "patience": 1, "min_delta": 1e9}
    early = {"lmbda": 0.5, "early_stopping": stopping}
    fails = {"lmbda": 0.7, "learning_rate": 1e30}
    ends = {}
    for lock_step in (False, True):
        out = tmp_path / str(lock_step)
        own = [job_of(zarr_cache, out, **each) for each in (fails, early)]  # type: ignore[arg-type]
        # In front, so that it is the one whose stream is read when it goes.
        jobs = [*own, *jobs_of(zarr_cache, out)] if lock_step else own
        ends[lock_step] = trained(jobs, lock_step)
    failed, stopped, *others = ends[True]
    assert failed.error is not None and "became nan or infinite" in failed.error
    assert failed.error.partition("in ")[0] == str(ends[False][0].error).partition("in ")[0]
    assert stopped.folder is not None
    assert len(rows_without_times(stopped.folder)) == 2
    assert_same_runs([stopped], ends[False][1:])
    assert_same_runs(others, alone)


def test_interrupted_runs_that_stand_at_different_places_catch_up_and_end_as_if_undisturbed(
    zarr_cache: TinyCache, tmp_path: Path, alone: list[RunOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(zarr_cache, tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)  # in the second run's first step; the first one leaves after its next
        for outcome, step in zip(trained(jobs, lock_step=True), (2, 1, 1), strict=True):
            assert outcome.exit_code == 128 + signal.SIGTERM
            assert f"in epoch 1, after step {step};" in str(outcome.error)
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        assert "in epoch 3, after step 1;" in str(trained(jobs[1:2], lock_step=True)[0].error)
    assert trained(jobs[2:], lock_step=True)[0].error is None
    ends = trained(jobs, lock_step=True)
    assert [end.was_finished for end in ends] == [False, False, True]
    assert_same_runs(ends, alone)
    assert len(list(tmp_path.glob("*/run_*"))) == 3


@pytest.mark.parametrize("where", ["step", "reading", "begin"])
def test_fewer_runs_are_trained_at_once_where_memory_does_not_suffice(
    where: str, zarr_cache: TinyCache, tmp_path: Path, alone: list[RunOutcome],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    calls = [0]

    def failing_once(real: Any, number: int) -> Any:
        def call(*given: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return real(*given, **more)

        return call

    if where == "step":
        patched = failing_once(steps.rate_distortion, 5)
        monkeypatch.setattr(steps, "rate_distortion", patched)
    elif where == "begin":
        monkeypatch.setattr("train.loop.run.make_codec", failing_once(run_module().make_codec, 2))
    else:
        monkeypatch.setattr(feeding, "Given", failing_once(feeding.Given, 3))
    with caplog.at_level(logging.INFO):
        jobs = jobs_of(zarr_cache, tmp_path, save_interval_s=0.0 if where == "step" else 60.0)
        ends = trained(jobs, lock_step=True)
    assert_same_runs(ends, alone)
    assert len(list(tmp_path.glob("*/run_*"))) == 3
    assert ("going on in epoch 1, after step 1" in caplog.text) == (where == "step")
    assert caplog.text.count("memory does not suffice for 3 runs at once") == 1
    (line,) = [each for each in caplog.messages if "does not suffice" in each]
    assert f"lambda {0.1 if where == 'reading' else 0.01}: memory" in line


def run_module() -> Any:
    import train.loop.run

    return train.loop.run


def test_a_run_alone_that_memory_does_not_suffice_for_is_told_so(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(steps, "rate_distortion", fail)
    for outcome in trained(jobs_of(zarr_cache, tmp_path)[:2], lock_step=True):
        assert str(outcome.error).startswith("out of memory: lower training.batch_size (3)")
    assert len(list(tmp_path.glob("*/run_*"))) == 2


def test_only_runs_that_take_the_same_batches_on_a_gpu_are_put_together(tmp_path: Path) -> None:
    cache = TinyCache(folder=tmp_path, container="zarr", config=tmp_path)
    one, two, other_lambda_on_cpu = (
        job_of(cache, tmp_path, lmbda, device)
        for lmbda, device in ((0.1, "cuda"), (0.2, "cuda"), (0.3, "cpu"))
    )
    differing = [
        job_of(cache, tmp_path, 0.3, "cuda", **other)
        for other in (
            {"batch_size": 2}, {"crop": 8}, {"seed": 1}, {"shuffle": "shards"},
            {"level_weights": [1.0, 2.0]}, {"warm_start": True},
        )
    ]  # fmt: skip
    differing += [replace(one, level=3), replace(one, train_cache=tmp_path / "other")]
    same = [
        job_of(cache, tmp_path, 0.3, "cuda", **own)
        for own in ({"epochs": 9}, {"learning_rate": 0.1}, {"cutmix": 0.0}, {"input_noise": 0.0})
    ]  # fmt: skip
    chains = chains_of([one, *differing, other_lambda_on_cpu, two, *same])
    assert [len(chain) for chain in chains] == [6, *(1 for _ in differing), 1]
    assert all(len(chain) == 1 for chain in chains_of([one, two], lock_step=False))
    cpu = replace(other_lambda_on_cpu, device="cpu")
    assert len(chains_of([cpu, replace(cpu, out=None)])) == 2
    assert len(chains_of([cpu, replace(cpu, out=None)], lock_step=True)) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(
    "more", [{"precision": "bfloat16"}, {"precision": "float32"}, {"cuda_graphs": False}]
)
def test_runs_together_on_a_gpu_become_what_they_become_alone(
    more: dict[str, Any], zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where steps are recorded, each run's with random numbers of its own."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    ends = [
        trained(
            jobs_of(zarr_cache, tmp_path / str(lock_step), device="cuda", epochs=6, **more),
            lock_step,
        )
        for lock_step in (False, True)
    ]
    assert_same_runs(*ends)
