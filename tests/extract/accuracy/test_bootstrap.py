"""mAP from matches is pycocotools' own, and its intervals are those of resampled images."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.accuracy.average_precision import Evaluation, evaluate_detections
from extract.accuracy.bootstrap import interval_of, map_draws, map_intervals
from extract.accuracy.matches import Detections, map_of_images, map_per_image, weighted_map


def evaluation_of(
    truths: list[tuple[int, int, int, int]], found: list[tuple[int, int, int, float]], images: int
) -> Evaluation:
    """Evaluate truths (image, category, left, crowd) and boxes (image, label, left, score)."""
    rows = sorted(found, key=lambda row: row[0])
    detections = Detections(
        image_ids=np.arange(1, images + 1),
        starts=np.searchsorted([row[0] for row in rows], np.arange(images + 1)),
        boxes=np.array([[x, 0, x + 40, 40] for _, _, x, _ in rows], np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _, _ in rows], dtype=np.int64),
        scores=np.array([score for *_, score in rows], dtype=np.float32),
    )
    content: dict[str, Any] = {
        "images": [{"id": n, "file_name": "", "height": 40, "width": 99}
                   for n in range(1, images + 1)],
        "annotations": [
            {"id": n, "image_id": image + 1, "category_id": category, "bbox": [x, 0, 40, 40],
             "area": 1600, "iscrowd": crowd}
            for n, (image, category, x, crowd) in enumerate(truths, start=1)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        path.write_text(json.dumps(content))
        return evaluate_detections(detections, path, {1: 1, 2: 2})


IMAGES = 4
TRUTHS = st.lists(
    st.tuples(
        st.integers(0, IMAGES - 1),
        st.integers(1, 2),
        st.integers(0, 30),
        st.sampled_from([0] * 5 + [1]),
    ),
    max_size=12,
)
# Few scores, so that many are equal.
FOUND = st.lists(
    st.tuples(
        st.integers(0, IMAGES - 1), st.integers(1, 2), st.integers(0, 30),
        st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    ),
    max_size=30,
)  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(truths=TRUTHS, found=FOUND, chosen=st.sets(st.integers(0, IMAGES - 1), min_size=1))
def test_map_of_some_images_is_that_of_a_data_set_without_the_others(
    truths: Any, found: Any, chosen: set[int]
) -> None:
    of_some = map_of_images(
        evaluation_of(truths, found, IMAGES).matches, {image + 1 for image in chosen}
    )
    alone = evaluation_of(
        [each for each in truths if each[0] in chosen],
        [each for each in found if each[0] in chosen],
        IMAGES,
    ).accuracy.map
    assert (-1 if np.isnan(of_some) else of_some) == pytest.approx(alone, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(truths=TRUTHS, found=FOUND)
def test_map_with_each_image_once_is_that_of_pycocotools(truths: Any, found: Any) -> None:
    evaluation = evaluation_of(truths, found, IMAGES)
    (figure,) = weighted_map(evaluation.matches, np.ones((1, IMAGES)))
    if evaluation.accuracy.map == -1:
        assert np.isnan(figure)
    else:
        assert figure == pytest.approx(evaluation.accuracy.map, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    truths=TRUTHS,
    found=st.lists(
        st.tuples(st.integers(0, IMAGES - 1), st.integers(1, 2), st.integers(0, 30)), max_size=30
    ),
    weights=st.lists(st.integers(0, 3), min_size=IMAGES, max_size=IMAGES).filter(any),
)
def test_map_of_weights_is_that_of_pycocotools_on_repeated_images(
    truths: Any, found: Any, weights: list[int]
) -> None:
    # No two scores are equal within an image, where repeating could change the order.
    scored = [(*row, 0.9 - number / 64) for number, row in enumerate(found)]
    (figure,) = weighted_map(evaluation_of(truths, scored, IMAGES).matches, np.array([weights]))
    copies = [image for image, weight in enumerate(weights) for _ in range(weight)]
    repeated = evaluation_of(
        [(new, *row[1:]) for new, old in enumerate(copies) for row in truths if row[0] == old],
        [(new, *row[1:]) for new, old in enumerate(copies) for row in scored if row[0] == old],
        len(copies),
    ).accuracy.map
    assert figure == pytest.approx(repeated, abs=1e-9) or (repeated == -1 and np.isnan(figure))


@settings(max_examples=30, deadline=None)
@given(truths=TRUTHS, found=FOUND)
def test_map_of_an_image_is_that_of_a_sample_of_it_alone(truths: Any, found: Any) -> None:
    matches = evaluation_of(truths, found, IMAGES).matches
    np.testing.assert_allclose(
        map_per_image(matches), weighted_map(matches, np.eye(IMAGES)), atol=1e-9
    )


def uneven(shift: int) -> Evaluation:
    """Forty images with one truth each; boxes of every third are `shift` px off."""
    truths = [(n, 1, 10, 0) for n in range(40)]
    found = [(n, 1, 10 + (shift if n % 3 == 0 else 0), 0.9 - n / 100) for n in range(40)]
    return evaluation_of(truths, found, 40)


def test_interval_holds_the_figure_and_the_drop_is_paired() -> None:
    before, after = uneven(2), uneven(12)
    intervals = map_intervals(before.matches, after.matches)
    assert intervals.after is not None
    assert intervals.drop is not None
    assert intervals.before.low < before.accuracy.map < intervals.before.high
    assert intervals.after.low < after.accuracy.map < intervals.after.high
    drop = before.accuracy.map - after.accuracy.map
    assert 0 < intervals.drop.low < drop < intervals.drop.high
    first, second = map_draws(before.matches), map_draws(after.matches)
    assert intervals.drop == interval_of(first - second)
    same = map_intervals(before.matches, before.matches).drop
    assert same is not None
    assert (same.low, same.high) == (0.0, 0.0)


def test_draws_are_those_of_the_seed() -> None:
    matches = uneven(12).matches
    draws = map_draws(matches, num_draws=100, seed=1)
    assert np.array_equal(draws, map_draws(matches, num_draws=100, seed=1))
    assert not np.array_equal(draws, map_draws(matches, num_draws=100, seed=2))


def test_split_without_truths_has_no_interval() -> None:
    interval = map_intervals(evaluation_of([], [], IMAGES).matches, None).before
    assert np.isnan([interval.low, interval.high]).all()


def test_drop_between_other_images_is_refused() -> None:
    with pytest.raises(ValueError, match="the same images"):
        map_intervals(uneven(2).matches, evaluation_of([], [], IMAGES).matches)
