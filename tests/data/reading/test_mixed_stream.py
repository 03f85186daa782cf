"""Batches of all levels in one stream: drawn by weight, and to be resumed anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch, LevelStream
from data.reading.mixed_stream import MixedLevelStream
from data.reading.order import level_draws
from tests.support.extraction import TinyCache


@pytest.fixture
def readers(tiny_cache: TinyCache) -> Iterator[list[LevelReader]]:
    opened = [LevelReader(tiny_cache.folder, level) for level in range(3)]
    yield opened
    for reader in opened:
        reader.close()


def mix_of(readers: list[LevelReader], *weights: float) -> MixedLevelStream:
    streams = [LevelStream(reader, batch_size=3, crop=16, seed=5, copy=True) for reader in readers]
    return MixedLevelStream(streams, weights=weights or (1.0, 1.0, 1.0), seed=5)


def take(mix: MixedLevelStream, num_epochs: int) -> list[Batch]:
    return [batch for _ in range(num_epochs) for batch in mix]


def test_epoch_has_as_many_batches_as_that_of_one_level(readers: list[LevelReader]) -> None:
    mix = mix_of(readers)
    assert len(list(mix)) == len(mix) == 3


def test_no_sample_of_a_level_comes_again_before_all_have_come(
    readers: list[LevelReader],
) -> None:
    batches = take(mix_of(readers), 12)
    assert {batch.level for batch in batches} == {0, 1, 2}
    for level in range(3):
        seen = [int(i) for batch in batches if batch.level == level for i in batch.indices]
        for start in range(0, len(seen) - 7, 8):
            assert sorted(seen[start : start + 8]) == list(range(8))


@pytest.mark.parametrize("consumed", [0, 1, 2, 4, 7])
def test_mix_resumed_anywhere_yields_the_same_rest(
    readers: list[LevelReader], consumed: int
) -> None:
    whole = take(mix_of(readers), 4)
    mix = mix_of(readers)
    count = 0
    while count < consumed:
        batches = iter(mix)
        for _ in batches:
            count += 1
            if count == consumed:
                break
    resumed = mix_of(readers)
    resumed.load_state_dict(mix.state_dict())
    rest = take(resumed, 5)[: len(whole) - consumed]
    for ours, theirs in zip(rest, whole[consumed:], strict=True):
        assert ours.level == theirs.level
        assert torch.equal(ours.features, theirs.features)


def test_levels_are_drawn_by_their_weights() -> None:
    weights = np.array([8.0, 1.0, 0.0, 1.0])
    draws = level_draws(weights=weights, num_batches=5000, seed=1, epoch=0)
    share = Counter(draws.tolist())
    assert share[2] == 0
    for level, weight in enumerate(weights):
        assert share[level] / 5000 == pytest.approx(weight / 10, abs=0.03)
    assert not np.array_equal(
        draws, level_draws(weights=weights, num_batches=5000, seed=1, epoch=1)
    )
