"""Runs of several seeds: the first is the one that a command without them trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_study import TinyStudy, tiny_config
from tests.support.training_command import call
from train.loop.job import Job
from train.runs.checkpoint import load_codec
from train.runs.run_folder import find_runs
from train.runs.run_record import RunRecord
from train.study.chain import chains_of


def test_seeds_make_a_run_each_of_which_the_first_is_the_one_without(
    study: TinyStudy, tmp_path: Path
) -> None:
    one = ("--level", "4", "--epochs", "1")
    assert call(study, tmp_path, *one).exit_code == 0
    result = call(study, tmp_path, *one, "--seeds", "2")
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert first.startswith("level 4, lambda 0.001, seed 0 -> ") and "finished before" in first
    assert second.startswith("level 4, lambda 0.001, seed 1 -> ")
    runs = find_runs(tmp_path)
    assert sorted(run.config.training.seed for run in runs) == [0, 1]
    assert sorted(RunRecord.load(run.folder).seed for run in runs) == [0, 1]
    assert len({load_codec(run.folder / "best_model.pth")[1].model_sha256 for run in runs}) == 2


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--resume", "{run}"), "is one run, of one seed: leave out --seeds"),
        (("--level", "4", "--set", "levels.4.training.seed=7"), "`levels` gives single levels"),
    ],
)
def test_seeds_that_the_runs_have_already_are_refused(
    study: TinyStudy, tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    (tmp_path / "config.yaml").touch()
    result = call(study, tmp_path, "--seeds", "2", *(each.format(run=tmp_path) for each in options))
    assert result.exit_code == 1
    assert line in result.output and len(result.output.strip().splitlines()) == 1


def test_warm_starts_are_of_one_seed() -> None:
    jobs = [
        Job(
            train_cache=Path("train"), val_cache=Path("val"), level=0, device="cpu",
            config=tiny_config(lmbda=lmbda, seed=seed, warm_start=True),
        )
        for lmbda in (0.2, 0.1)
        for seed in (0, 1)
    ]  # fmt: skip
    of_runs = [[each.config.training for each in chain] for chain in chains_of(jobs)]
    assert [[(each.seed, each.lmbda) for each in chain] for chain in of_runs] == [
        [(0, 0.1), (0, 0.2)], [(1, 0.1), (1, 0.2)],
    ]  # fmt: skip
