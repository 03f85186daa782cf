"""An analysis that lacks something says first what to type, and the command is one that works."""

from __future__ import annotations

import math
from typing import Any

import pytest

from analyze.facts.results import next_step, psnr_db

BOXES = "no mAP: the split 'val' was extracted without boxes: name its annotations"


@pytest.mark.parametrize(
    ("lacks", "step"),
    [
        ({"has_cache": False}, "extract-features --split val --features f"),
        ({"has_cache": False, "has_runs": False}, "extract-features --split val --features f"),
        ({"has_cache": False, "known_splits": ["a"]}, "analyze-levels --split train --features f"),
        ({"has_runs": False, "no_detection": [BOXES]}, "train-level --level all --features f"),
        ({"no_detection": [BOXES]}, "name its annotations"),
        ({}, ""),
    ],
)  # fmt: skip
def test_what_is_lacking_most_is_to_be_typed_next(lacks: dict[str, Any], step: str) -> None:
    there: dict[str, Any] = {
        "known_splits": ["train", "val"], "has_cache": True, "has_runs": True, "no_detection": [],
    }  # fmt: skip
    assert next_step("val", " --features f", **{**there, **lacks}) == step


def test_psnr_is_measured_against_the_given_range() -> None:
    assert psnr_db(mse=0.01, value_range=10.0) == pytest.approx(40.0)
    assert psnr_db(mse=0.0, value_range=10.0) == math.inf
