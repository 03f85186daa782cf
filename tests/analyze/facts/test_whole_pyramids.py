"""Which runs are taken, and which whole pyramids they make."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from analyze.facts.candidates import Candidate, newest_runs
from analyze.facts.whole_pyramids import pyramids


def candidate(level: int, lmbda: float, time: str = "120000", loss: float = 1.0) -> Candidate:
    folder = Path(f"level_{level}") / f"run_20250101_{time}_lambda_{lmbda:.2e}"
    return Candidate(folder=folder, level=level, lmbda=lmbda, best_validation_loss=loss)


def test_newest_run_of_each_level_and_lambda_is_kept() -> None:
    old, new = candidate(0, 0.001, "110000"), candidate(0, 0.001, "130000")
    other = candidate(0, 0.01, "100000")
    assert newest_runs([new, other, old]) == [new, other]


def test_runs_of_one_lambda_that_another_distortion_taught_are_both_kept() -> None:
    plain = dataclasses.replace(candidate(0, 0.001, "110000"), model="factorized")
    weighted = dataclasses.replace(plain, model="factorized object_weighted")
    assert newest_runs([weighted, plain]) == [plain, weighted]


def test_only_lambdas_that_have_every_level_make_a_pyramid() -> None:
    runs = [candidate(0, 0.001), candidate(1, 0.001), candidate(0, 0.01)]
    (pyramid,) = pyramids(runs, [0, 1])
    assert pyramid.name == "all levels, lambda 0.001"
    assert pyramid.runs == {0: runs[0], 1: runs[1]}


def test_without_a_complete_lambda_the_best_run_of_each_level_is_taken_and_said() -> None:
    runs = [candidate(0, 0.001, loss=2.0), candidate(0, 0.01, loss=1.0), candidate(1, 0.1)]
    (pyramid,) = pyramids(runs, [0, 1])
    assert "no lambda has every level" in pyramid.name
    assert pyramid.runs == {0: runs[1], 1: runs[2]}


def test_untrained_level_leaves_no_pyramid() -> None:
    assert pyramids([candidate(0, 0.001)], [0, 1]) == []
