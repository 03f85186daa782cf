"""What an allocation is asked for, and that it may be chosen on another split."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyze.allocation.search import Target
from analyze.analysis import runs_of
from analyze.choosing import find_allocations, measured_split, open_choosing
from analyze.facts.kept_results import Kept
from analyze.facts.results import ChosenBy
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.split import open_split
from analyze.request import Wanted
from configs.errors import ConfigError
from data.cache.cache_folder import CacheFolder
from tests.support.analysis import request_of
from tests.support.tiny_study import TinyStudy
from train.runs.loaded_models import LoadedModels


def test_fewer_than_two_folds_are_refused_in_python_too() -> None:
    for number in (1, -1):
        with pytest.raises(ConfigError, match=f"--cross-fit {number}: use 2 folds or more"):
            Wanted(target=Target(kind="bpp", value=1.0), cross_fit=number)


def test_choice_of_another_split_is_measured_on_this_one(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    # Of any error at all: nothing is sent, and each split's files have their own bits for that.
    wanted = Wanted(target=Target(kind="mse", value=1e9), choose_on="train")
    request = request_of(study, checkpoints, limit=1)
    models, cache, kept = LoadedModels(), CacheFolder(study.val_cache), Kept(None)
    with (
        open_choosing(request, wanted, cache, "cpu") as choosing,
        open_split(cache, "val", study.config, device="cpu", limit=1, options="") as split,
    ):
        decoded = DecodedLevels(tmp_path, split.readers, 1, models)
        measured = measured_split(split, runs_of(request, split, models), decoded, models, kept)
        found = find_allocations(choosing, measured, (), wanted.target, models, kept, tmp_path)
    assert found.missing == ()
    (allocated,) = found.result
    chosen, there = allocated.combination, allocated.allocation.combination
    assert chosen.name == "allocated for a MSE of 1e+09, chosen on train, measured on val"
    assert chosen.chosen_by == ChosenBy(
        split="train", num_images=1, measured_on="val", num_measured=1
    )
    assert set(chosen.parts.values()) <= {"dropped", "derived"}
    assert chosen.bits_per_pixel == measured.overhead.total(allocated.parts)
    assert allocated.allocation.verified_drop is not None
    assert there.cost > 0
