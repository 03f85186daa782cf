"""Batches hold every sample once, equal maps only, and never depend on which windows are asked."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from analyze.maps import equal_maps
from analyze.maps.equal_maps import WINDOW, batches, equal_batches, on_device, on_host
from data.reading.level_reader import LevelReader

SIZES = [[(25, 42), (42, 25), (25, 33)][number * number % 3] for number in range(3 * WINDOW + 5)]


def test_batches_are_of_equal_maps_of_one_window_and_hold_every_sample_once() -> None:
    made = equal_batches(SIZES, range(len(SIZES)))
    assert sorted(index for batch in made for index in batch) == list(range(len(SIZES)))
    for batch in made:
        assert len({SIZES[index] for index in batch}) == 1
        assert len({index // WINDOW for index in batch}) == 1
    assert len(made) <= 3 * 4


def test_windows_alone_have_the_batches_that_they_have_in_the_whole() -> None:
    whole = equal_batches(SIZES, range(len(SIZES)))
    apart = [
        batch
        for piece in (range(WINDOW), range(WINDOW, 3 * WINDOW), range(3 * WINDOW, len(SIZES)))
        for batch in equal_batches([SIZES[index] for index in piece], piece)
    ]
    assert apart == whole


def test_large_maps_go_few_at_a_time_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_maps, "_MOST_POSITIONS", 2 * 25 * 42)
    made = equal_batches([(25, 42)] * 5 + [(100, 100)] * 2, range(7))
    assert made == [(0, 1), (2, 3), (4,), (5,), (6,)]


def test_a_cpu_takes_maps_one_by_one() -> None:
    assert batches(cast(LevelReader, None), range(3, 6), "cpu") == [(3,), (4,), (5,)]


class Samples:
    """Five float16 maps of one size, one of them beyond float16's range once decoded."""

    def sample(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.random.default_rng(index).normal(0, 5, (9, 6, 4)).astype(np.float16)


@pytest.mark.gpu
def test_a_batch_reaches_the_gpu_and_comes_back_with_the_bits_that_the_cpu_stores() -> None:
    reader = cast(LevelReader, Samples())
    maps = on_device(reader, (0, 3, 4), "cuda")
    alone = torch.cat([on_device(reader, (index,), "cpu") for index in (0, 3, 4)])
    assert maps.dtype == torch.float32
    assert maps.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(maps.cpu(), alone)
    beyond = alone * 30000 / 7
    limit = float(np.finfo(np.float16).max)
    expected = np.clip(on_host(beyond, np.dtype(np.float16)), -limit, limit).astype(np.float16)
    back = on_host(beyond.cuda(), np.dtype(np.float16))
    assert back.dtype == np.float16
    assert np.array_equal(back, expected)
