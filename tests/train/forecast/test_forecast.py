"""What a study would take: counted from its runs, timed by a few steps of each kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data.cache.manifest import Manifest
from data.cache.plan import level_bytes
from tests.support.tiny_study import TinyStudy, tiny_config
from tests.support.training_command import call
from train.forecast.forecast import RunForecast, StudyForecast, foretell
from train.forecast.trial import StepCost, step_cost
from train.loop.job import Job

COST = StepCost(
    step_s=0.5, steps_per_epoch=10, step_bytes=100.0, validation_s=2.0,
    train_bytes=1500, val_bytes=300,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.forecast.trial._MOST_STEPS", 1)


def job_of(study: TinyStudy, level: int | str, out: Path, **training: object) -> Job:
    return Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=level,
        config=tiny_config(**training), device="cpu", out=out,
    )  # fmt: skip


def forecast_of(*chains: list[RunForecast], memory_bytes: float = 0) -> StudyForecast:
    return StudyForecast(
        chains=list(chains), read_bytes_per_s=1000.0, memory_bytes=memory_bytes, peak_bytes=0,
        gpu_bytes=None,
    )  # fmt: skip


@pytest.mark.parametrize("level", [1, "random", "fused"])
def test_a_trial_counts_steps_and_bytes_of_the_levels_of_a_run(
    study: TinyStudy, tmp_path: Path, level: int | str
) -> None:
    cost = step_cost(job_of(study, level, tmp_path).settled())
    manifests = [Manifest.load(cache) for cache in (study.train_cache, study.val_cache)]
    # Of a pyramid level 4, which is level 3 subsampled, is not coded.
    levels = {1: [1], "random": range(5), "fused": range(4)}[level]
    sizes = [sum(level_bytes(each, index) for index in levels) for each in manifests]
    assert [cost.train_bytes, cost.val_bytes] == sizes
    assert cost.steps_per_epoch == 2
    assert cost.step_s > 0 and cost.validation_s > 0
    assert 0 < cost.step_bytes <= sizes[0]
    assert list(tmp_path.iterdir()) == []


def test_runs_in_lock_step_read_each_batch_once_and_validate_each(
    study: TinyStudy, tmp_path: Path
) -> None:
    run = RunForecast(job=job_of(study, 0, tmp_path), cost=COST, num_epochs=4)
    assert (run.num_steps, run.seconds) == (40, 40 * 0.5 + 4 * 2.0)
    alone, together = forecast_of([run], [run]).tasks(), forecast_of([run, run]).tasks()
    assert [task.num_bytes for task in alone] == [40 * 100 + 4 * 300] * 2
    assert [task.num_bytes for task in together] == [40 * 100 + 2 * 4 * 300]
    assert [task.device_seconds for task in together] == [2 * run.seconds]
    kept = forecast_of([run], memory_bytes=1500).tasks()
    assert [task.num_bytes for task in kept] == [1500 + 300], "what fits into memory is read once"


def test_the_table_says_what_limits_one_node_and_several(study: TinyStudy, tmp_path: Path) -> None:
    run = RunForecast(job=job_of(study, 0, tmp_path), cost=COST, num_epochs=4)
    done = replace(run, num_epochs=0)
    table = forecast_of([run], [run], [done]).table(2, 4)
    assert table[1].split() == [
        "0", "3", "2", "80", "500.00", "2.00", "56", "s", "0.000",
    ]  # fmt: skip
    assert table[2].startswith("about 56 s at most (computing), for 2 tasks in turn; ")
    assert table[3] == (
        "2 x 4 such devices on 2 nodes: about 28 s (computing), if each node has such a disk; "
        "about 28 s (computing), if all read from this one"
    )


def test_runs_of_one_kind_are_tried_once_and_what_is_trained_already_is_left_out(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(study, tmp_path, "--level", "4", "--epochs", "1").exit_code == 0
    tried: list[int | str] = []

    def cost(job: Job) -> StepCost:
        tried.append(job.level)
        return COST

    monkeypatch.setattr("train.forecast.forecast.step_cost", cost)
    config = study.config

    def left(epochs: int, go_on: bool = True) -> list[int]:
        training = [
            config.training.model_copy(update={"epochs": epochs, "lmbda": lmbda})
            for lmbda in (config.training.lmbda, 0.5)
        ]
        jobs = [
            replace(job_of(study, 4, tmp_path), config=config.model_copy(update={"training": each}))
            for each in training
        ]
        foreseen = foretell(jobs, go_on=go_on)
        return [run.num_epochs for chain in foreseen.chains for run in chain]

    assert (left(1), left(3), left(1, go_on=False)) == ([0, 1], [2, 3], [1, 1])
    assert tried == [4, 4, 4], "both lambdas are of one kind"


def test_the_command_foretells_any_study(study: TinyStudy, tmp_path: Path) -> None:
    result = call(
        study, tmp_path, "--level", "3", "--lambda", "0.1", "--lambda", "0.2", "--dry-run"
    )
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert rows[1][:4] == ["3", "2", "2", "8"]
    assert "memory: " in result.output
    assert list(tmp_path.iterdir()) == []
