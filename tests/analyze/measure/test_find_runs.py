"""Which runs are looked at, and which are said to be missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from analyze.facts.candidates import Candidate
from analyze.measure.find_runs import newest_of_levels


def test_level_that_a_study_from_coarse_to_fine_leaves_out_is_not_missing() -> None:
    coarse, fine = (
        Candidate(folder=Path(f"run_{level}"), level=level, lmbda=0.1, best_validation_loss=1.0)
        for level in (3, 2)
    )
    beside = replace(fine, context=coarse)

    def missing(*runs: Candidate) -> tuple[str, ...]:
        return newest_of_levels(
            runs, (2, 3, 4), looked_in="there", split="val", options="", derivable={4}
        ).missing

    assert missing(coarse, fine) == (
        "level 4 has no trained run in there: run train-level --level 4",
    )
    assert missing(coarse, beside) == ()
    assert missing(beside) == ("level 3 has no trained run in there: run train-level --level 3",)
