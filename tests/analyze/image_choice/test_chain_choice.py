"""The choice of each image, against all choices that there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analyze.image_choice.chain_choice import (
    WayCosts,
    choose,
    costs_of,
    slope_for,
    slope_range,
)
from analyze.image_choice.ways import Way
from analyze.streams.ensemble import CodedLevel, DerivedLevel, DroppedLevel

MODEL = CodedLevel(run=Path("run"), model_sha256="0" * 64, lmbda=0.1)


@st.composite
def problems(draw: st.DrawFn) -> tuple[tuple[Way, ...], WayCosts]:
    """Ways of up to three levels, chained and derived at random, and their costs in some images."""
    levels = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True))
    ways: list[Way] = []
    for level in sorted(levels, reverse=True):
        coarser = [place for place, way in enumerate(ways) if way.how == MODEL]
        for _ in range(draw(st.integers(0, 2))):
            beside = draw(st.sampled_from([None, *coarser]))
            ways.append(Way(level=level, how=MODEL, weight=draw(weights()), beside=beside))
        ways.append(Way(level=level, how=DroppedLevel(), weight=draw(weights())))
        finer = [each for each in levels if each < level]
        if finer and draw(st.booleans()):
            source = DerivedLevel(source=draw(st.sampled_from(finer)))
            ways.append(Way(level=level, how=source, weight=draw(weights())))
    num_images = draw(st.integers(1, 3))
    cells = num_images * len(ways)
    sizes = draw(st.lists(st.integers(2, 4000), min_size=cells, max_size=cells))
    errors = draw(st.lists(st.floats(0, 3, width=16), min_size=cells, max_size=cells))
    shape = (num_images, len(ways))
    return tuple(ways), WayCosts(
        num_bytes=np.array(sizes, dtype=np.int64).reshape(shape),
        mse=np.array(errors).reshape(shape),
    )


def weights() -> st.SearchStrategy[float]:
    return st.sampled_from([0.0, 0.01, 0.1, 1.0])


SLOPES = st.sampled_from([1e-4, 0.01, 0.3, 1.0, 30.0])


def all_choices(ways: tuple[Way, ...]) -> Iterator[tuple[int, ...]]:
    """Every way of each level with every other, those left out that do not go together."""
    levels = sorted({way.level for way in ways})
    of_level = [[p for p, way in enumerate(ways) if way.level == level] for level in levels]
    for places in itertools.product(*of_level):
        derived = {
            ways[place].level for place in places if isinstance(ways[place].how, DerivedLevel)
        }
        if all(goes(ways, place, places, derived) for place in places):
            yield places


def goes(ways: tuple[Way, ...], place: int, places: tuple[int, ...], derived: set[int]) -> bool:
    way = ways[place]
    if isinstance(way.how, DerivedLevel):
        return way.how.source not in derived
    if way.beside is None:
        return True
    coarser = [ways[p].level for p in places if ways[p].level > way.level]
    seen = min((level for level in coarser if level not in derived), default=None)
    return way.beside in places and ways[way.beside].level == seen


@settings(max_examples=60, deadline=None)
@given(problems(), SLOPES)
def test_no_choice_of_an_image_costs_less_than_the_one_that_is_found(
    problem: tuple[tuple[Way, ...], WayCosts], slope: float
) -> None:
    ways, costs = problem
    found = choose(ways, costs, slope)
    for image in range(len(costs.num_bytes)):
        own = WayCosts(num_bytes=costs.num_bytes[[image]], mse=costs.mse[[image]])
        others = list(all_choices(ways))
        assert found.ways[image] in others
        least = min(costs_of(ways, own, [each]).lagrangian(slope) for each in others)
        mine = costs_of(ways, own, [found.ways[image]]).lagrangian(slope)
        assert mine == pytest.approx(least, rel=1e-9, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(problems(), SLOPES)
def test_images_that_choose_themselves_are_never_worse_than_one_choice_for_all(
    problem: tuple[tuple[Way, ...], WayCosts], slope: float
) -> None:
    ways, costs = problem
    (alike,) = choose(ways, costs.summed, slope).ways
    for_all = costs_of(ways, costs, [alike] * len(costs.num_bytes))
    assert choose(ways, costs, slope).lagrangian(slope) <= for_all.lagrangian(slope) * (1 + 1e-9)


# Ways of equal errors, between which nothing but bytes can choose, however small the slope.
EQUAL_ERRORS = (
    (
        *(Way(level=1, how=how, weight=0.0) for how in (MODEL, MODEL, DroppedLevel())),
        *(Way(level=0, how=how, weight=0.01) for how in (MODEL, DroppedLevel())),
    ),
    WayCosts(num_bytes=np.array([[2, 2, 2, 3, 2]]), mse=np.array([[0.0, 0.0, 0.0, 1.0, 1.0]])),
)


@settings(max_examples=10, deadline=None)
@given(problems(), st.integers(0, 20000))
@example(EQUAL_ERRORS, 4)
def test_slope_is_the_least_at_which_the_bytes_fit(
    problem: tuple[tuple[Way, ...], WayCosts], most_bytes: int
) -> None:
    ways, costs = problem
    slope = slope_for(ways, costs, most_bytes)
    if slope is None:
        fewest = [min(costs_of(ways, costs, [c] * len(costs.mse)).num_bytes[i]
                      for c in all_choices(ways)) for i in range(len(costs.mse))]  # fmt: skip
        assert sum(fewest) > most_bytes
        return
    assert choose(ways, costs, slope).num_bytes.sum() <= most_bytes
    dearer = choose(ways, costs, slope * (1 - 1e-6)).num_bytes.sum()
    assert dearer > most_bytes or slope == slope_range(ways, costs)[0]


def test_contextual_way_stands_only_beside_the_one_that_it_was_measured_beside() -> None:
    ways = (
        Way(level=1, how=MODEL, weight=1.0),
        Way(level=1, how=MODEL, weight=1.0),
        Way(level=0, how=MODEL, weight=1.0, beside=1),
        Way(level=0, how=DroppedLevel(), weight=1.0),
    )
    costs = WayCosts(num_bytes=np.array([[10, 40, 10, 2]]), mse=np.array([[1.0, 0.9, 0.1, 3.0]]))
    assert choose(ways, costs, 1.0).ways == ((2, 1),)
    assert choose(ways, costs, 90.0).ways == ((3, 0),)
