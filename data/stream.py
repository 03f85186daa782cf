"""Batches from a level: shuffled random crops for training, whole maps for evaluation.

A background thread fills a ring of reused buffers while the caller computes (NumPy's copies release
the GIL). A batch stays valid until the next one is taken: its memory is then filled anew. Pass
`copy=True` to collect batches.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from data.order import crop_fractions, epoch_order
from data.reader import LevelReader

RING_DEPTH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """`features` [B, C, H, W] channels_last in the stored dtype; `sizes` int64 [B, 2] real (h, w).

    Maps smaller than the batch are padded by replication; `indices` int64 [B] are sample numbers.
    """

    features: Tensor
    indices: Tensor
    sizes: Tensor


class LevelStream(IterableDataset[Batch]):
    """One epoch of shuffled batches over the whole split each time it is iterated."""

    def __init__(
        self, reader: LevelReader, *, batch_size: int, crop: int | None, seed: int = 0,
        copy: bool = False,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._batch_size = batch_size
        self._crop = crop
        self._seed = seed
        self._copy = copy
        self._epoch = 0
        self._next_batch = 0

    def __len__(self) -> int:
        return -(-self._reader.num_samples // self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows, from its beginning."""
        self._epoch, self._next_batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Return the position: epoch and the number of batches already handed out in it."""
        return {"epoch": self._epoch, "next_batch": self._next_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a position: the next iteration yields the rest of that epoch."""
        self._epoch, self._next_batch = state["epoch"], state["next_batch"]

    def __iter__(self) -> Iterator[Batch]:
        if get_worker_info() is not None:
            # Each worker would yield the whole epoch, and its memory would change under the reader.
            raise RuntimeError("LevelStream has a thread of its own: use num_workers=0")
        count = self._reader.num_samples
        order = epoch_order(num_samples=count, seed=self._seed, epoch=self._epoch)
        fractions = crop_fractions(num_samples=count, seed=self._seed, epoch=self._epoch)
        groups = [
            order[start : start + self._batch_size]
            for start in range(self._next_batch * self._batch_size, count, self._batch_size)
        ]
        ring = [_Buffer(self._reader) for _ in range(RING_DEPTH)]

        def fill() -> Iterator[Batch]:
            for number, group in enumerate(groups):
                yield ring[number % RING_DEPTH].fill(group, self._crop, fractions)

        # One slot is with the caller, one is being filled: the queue may hold the others.
        for batch in _ahead(fill(), depth=RING_DEPTH - 2):
            self._next_batch += 1
            if self._copy:
                batch = Batch(
                    features=batch.features.clone(), indices=batch.indices, sizes=batch.sizes
                )
            yield batch
        self._epoch, self._next_batch = self._epoch + 1, 0


def whole_map_batches(
    reader: LevelReader, batch_size: int, indices: Sequence[int] | None = None
) -> Iterator[Batch]:
    """Yield every sample once as whole maps, one shape at a time, in the order of the manifest."""
    wanted = range(reader.num_samples) if indices is None else indices
    by_shape: dict[tuple[int, int, int], list[int]] = {}
    for index in wanted:
        by_shape.setdefault(reader.shape(index), []).append(index)
    for (height, width, _), members in by_shape.items():
        for start in range(0, len(members), batch_size):
            group = members[start : start + batch_size]
            stacked = np.stack([reader.sample(index) for index in group])
            yield Batch(
                features=torch.from_numpy(stacked).permute(0, 3, 1, 2),
                indices=torch.tensor(group),
                sizes=torch.tensor([[height, width]] * len(group)),
            )


class _Buffer:
    """One slot of the ring; grows to the largest batch it has held."""

    def __init__(self, reader: LevelReader) -> None:
        self._reader = reader
        self._memory = torch.empty(0, dtype=getattr(torch, reader.manifest.dtype))

    def fill(self, group: NDArray[Any], crop: int | None, fractions: NDArray[Any]) -> Batch:
        """Copy the group's crops into this slot."""
        reader = self._reader
        shapes = np.array([reader.shape(int(index)) for index in group])
        sizes = shapes[:, :2] if crop is None else np.minimum(shapes[:, :2], crop)
        corners = (fractions[group] * (shapes[:, :2] - sizes + 1)).astype(np.int64)
        height, width = sizes.max(axis=0)
        shape = (len(group), int(height), int(width), int(shapes[0, 2]))
        if self._memory.numel() < np.prod(shape):
            self._memory = torch.empty(int(np.prod(shape)), dtype=self._memory.dtype)
        features = self._memory[: int(np.prod(shape))].view(shape)
        target = features.numpy()
        for slot, index in enumerate(group):
            (top, left), (h, w) = corners[slot], sizes[slot]
            source = reader.sample(int(index))[top : top + h, left : left + w]
            target[slot, :h, :w] = source
            if w < width:
                target[slot, :h, w:] = target[slot, :h, w - 1 : w]
            if h < height:
                target[slot, h:] = target[slot, h - 1 : h]
        return Batch(
            features=features.permute(0, 3, 1, 2),
            indices=torch.from_numpy(group),
            sizes=torch.from_numpy(sizes.astype(np.int64)),
        )


def _ahead(batches: Iterable[Batch], *, depth: int) -> Iterator[Batch]:
    """Run an iterator in a thread, at most `depth` items ahead; its errors surface here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # handed to the caller, who raises it
            put(error)

    thread = threading.Thread(target=run, name="level-stream", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
