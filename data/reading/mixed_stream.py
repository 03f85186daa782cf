"""Batches of several levels in one stream: each from a level drawn by weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from data.reading.level_stream import Batch, LevelStream
from data.reading.order import level_draws


class MixedLevelStream(IterableDataset[Batch]):
    """As many batches an epoch as one level has; each comes from a level drawn by weight.

    A level's samples come in its own shuffled epochs, which go on from one epoch of the mix to the
    next: none is seen twice before all have been seen.
    """

    def __init__(self, streams: Sequence[LevelStream], *, weights: Sequence[float], seed: int):
        self._streams = list(streams)
        self._weights = np.asarray(weights, dtype=np.float64)
        self._seed = seed
        self._epoch = 0
        self._next_batch = 0

    def __len__(self) -> int:
        return len(self._streams[0])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draws the next iteration follows, from its beginning."""
        self._epoch, self._next_batch = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position: epoch, batches handed out in it, and each level's own position."""
        return {
            "epoch": self._epoch,
            "next_batch": self._next_batch,
            "levels": [stream.state_dict() for stream in self._streams],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position: the next iteration yields the rest of that epoch."""
        self._epoch, self._next_batch = state["epoch"], state["next_batch"]
        for stream, position in zip(self._streams, state["levels"], strict=True):
            stream.load_state_dict(position)

    def __iter__(self) -> Iterator[Batch]:
        draws = level_draws(
            weights=self._weights, num_batches=len(self), seed=self._seed, epoch=self._epoch
        )
        levels = [_endless(stream) for stream in self._streams]
        try:
            for draw in draws[self._next_batch :].tolist():
                batch = next(levels[draw])
                self._next_batch += 1
                yield batch
        finally:
            for level in levels:
                level.close()
        self._epoch, self._next_batch = self._epoch + 1, 0


def _endless(stream: LevelStream) -> Any:
    while True:
        yield from stream
