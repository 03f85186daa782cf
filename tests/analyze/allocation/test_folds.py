"""Folds cover all images once, keep views together, and hang on names and a seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyze.allocation.folds import folds_of
from configs.errors import ConfigError

NAMES = st.lists(st.integers(0, 30).map("image_{}.png".format), min_size=1, max_size=40)


def named_folds(files: Sequence[str], folds: Sequence[Sequence[int]]) -> set[frozenset[str]]:
    return {frozenset(files[place] for place in fold) for fold in folds}


@given(files=NAMES, num_folds=st.integers(2, 5), seed=st.integers(0, 3), data=st.data())
def test_folds_are_disjoint_cover_all_and_do_not_hang_on_the_order(
    files: list[str], num_folds: int, seed: int, data: st.DataObject
) -> None:
    if len(set(files)) < num_folds:
        with pytest.raises(ConfigError, match=f"--cross-fit {num_folds}: there are "):
            folds_of(files, num_folds, seed)
        return
    folds = folds_of(files, num_folds, seed)
    assert sorted(place for fold in folds for place in fold) == list(range(len(files)))
    sizes = [len({files[place] for place in fold}) for fold in folds]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) > 0
    other_order = data.draw(st.permutations(files))
    again = folds_of(other_order, num_folds, seed)
    assert named_folds(other_order, again) == named_folds(files, folds)


@given(num_images=st.integers(2, 12))
def test_views_of_an_image_are_in_its_fold(num_images: int) -> None:
    endings = ("", "#xywh=0,0,64,64", "#xywh=0,0,64,64&flip")
    files = [f"image_{number}.png{ending}" for ending in endings for number in range(num_images)]
    for fold in folds_of(files, 2):
        names = [files[place].partition("#")[0] for place in fold]
        assert all(names.count(name) == len(endings) for name in names)


def test_another_seed_gives_other_folds() -> None:
    files = [f"image_{number}.png" for number in range(40)]
    assert folds_of(files, 5, 0) == folds_of(files, 5, 0) != folds_of(files, 5, 1)
