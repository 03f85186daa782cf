"""Shuffled batches from a level, as fast as memory: crops for training, or whole maps.

A ring of reused buffers is filled in turn; each buffer takes one block of batches with a single
copying call, made when the block's first batch is asked for. That takes a thousandth of a step on a
CPU, which has no core to spare for a thread; beside a GPU (`read_ahead`) a thread fills large
batches while the caller computes. What is not in memory yet the system is told to read one block
ahead. The `keep` latest batches are valid, older ones may have been filled anew. Pass `copy=True`
to collect batches.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from data.blocks import Block, cut_blocks
from data.gather import copy_runs, tile_runs
from data.order import crop_fractions, epoch_order, epoch_order_by_shards
from data.reader import LevelReader
from data.threads import keep_default, limit_cores

_READY_BLOCKS = 1
_SHARD_WINDOW = 4
_PROBED_RUNS = 4
_COPYING_CORES = 4

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """`features` [B, C, H, W] channels_last in the stored dtype; `sizes` int64 [B, 2] real (h, w).

    Maps smaller than the batch are padded by replication; `indices` int64 [B] are sample numbers.
    """

    features: Tensor
    indices: Tensor
    sizes: Tensor


class LevelStream(IterableDataset[Batch]):
    """One epoch of shuffled batches over the whole split each time it is iterated.

    `crop`: side of a random crop in feature positions, smaller maps whole; None: whole maps.
    `shuffle`: `full` draws over the whole split; `shards` shuffles the shards and, within windows
    of four, their samples, for caches larger than memory. `keep`: how many
    batches are valid at a time: a ring of one stays in a CPU's cache, which doubles the speed. For
    a GPU: `pin_memory` for asynchronous copies, `read_ahead` for a thread that fills large batches
    ahead.
    """

    def __init__(
        self, reader: LevelReader, *, batch_size: int, crop: int | None, seed: int = 0,
        copy: bool = False, shuffle: Literal["full", "shards"] = "full",
        keep: int = 1, pin_memory: bool = False, read_ahead: bool = False,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._batch_size = batch_size
        self._crop = crop
        self._seed = seed
        self._copy = copy
        self._shuffle = shuffle
        self._keep = keep
        self._pin_memory = pin_memory
        self._read_ahead = read_ahead
        self._ring: _Ring | None = None
        self._epoch = 0
        self._next_batch = 0

    @property
    def ring_depth(self) -> int:
        """Number of batches (or blocks of small ones) in memory at once."""
        # A thread has some ready and fills one besides.
        return self._keep + (_READY_BLOCKS + 1 if self._read_ahead else 0)

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
            # Each worker would yield the whole epoch, and its position would stay in the worker.
            raise RuntimeError("LevelStream reads at memory speed by itself: use num_workers=0")
        epoch = _Epoch(self._reader, self._order(), self._crop, self._seed, self._epoch)
        blocks = cut_blocks(
            epoch.sizes,
            batch_size=self._batch_size,
            first_batch=self._next_batch,
            value_bytes=int(self._reader.shapes[0, 2]) * self._reader.dtype.itemsize,
        )
        # Kept between epochs, as fresh memory costs more than the copies; two iterators at once
        # have one ring each.
        ring = self._ring or _Ring(self._reader.values.dtype, self.ring_depth, self._pin_memory)
        self._ring = None
        try:
            filled = _filled(epoch, blocks, ring)
            # Many small batches in a block are copied faster than a thread is woken.
            large = all(block.last - block.first <= self._batch_size for block in blocks)
            if self._read_ahead and large:
                filled = _ahead(filled, depth=_READY_BLOCKS)
            for block in filled:
                parts = (torch.split(part, self._batch_size) for part in block)
                for features, indices, sizes in zip(*parts, strict=True):
                    self._next_batch += 1
                    yield Batch(
                        features=features.clone() if self._copy else features,
                        indices=indices,
                        sizes=sizes,
                    )
        finally:
            self._ring = ring
        self._epoch, self._next_batch = self._epoch + 1, 0

    def _order(self) -> NDArray[Any]:
        if self._shuffle == "shards":
            return epoch_order_by_shards(
                shard_of=self._reader.shard_of,
                window=_SHARD_WINDOW,
                seed=self._seed,
                epoch=self._epoch,
            )
        return epoch_order(num_samples=self._reader.num_samples, seed=self._seed, epoch=self._epoch)


class _Ring:
    """Buffers that are filled in turn; each grows to the largest block it has held."""

    def __init__(self, dtype: torch.dtype, depth: int, pin_memory: bool) -> None:
        self._slots = [torch.empty(0, dtype=dtype) for _ in range(depth)]
        self._pin_memory = pin_memory
        self._next = 0

    def memory(self, num_values: int) -> Tensor:
        """Return the next slot's first values, [num_values]."""
        slot, self._next = self._next, (self._next + 1) % len(self._slots)
        if self._slots[slot].numel() < num_values:
            self._slots[slot] = torch.empty(
                num_values, dtype=self._slots[slot].dtype, pin_memory=self._pin_memory
            )
        return self._slots[slot][:num_values]


class _Epoch:
    """Which tile of which sample when, and where its values lie."""

    def __init__(
        self, reader: LevelReader, order: NDArray[Any], crop: int | None, seed: int, epoch: int
    ) -> None:
        fractions = crop_fractions(num_samples=len(order), seed=seed, epoch=epoch)
        self._reader = reader
        self._order = order
        self._shapes = reader.shapes[order]
        self._starts = reader.starts[order]
        whole = self._shapes[:, :2]
        self.sizes: NDArray[Any] = whole if crop is None else np.minimum(whole, crop)
        """(h, w) of each sample's tile in the order of the epoch, int64 [n, 2]."""
        self._corners = (fractions[order] * (whole - self.sizes + 1)).astype(np.int64)
        if (self.sizes < whole).any():
            # Reading ahead would fetch what lies between the crops.
            reader.files.expect_random_reads()

    def num_values(self, block: Block) -> int:
        """Return how many values a block holds."""
        height, width = block.tile_hw
        return (block.last - block.first) * height * width * int(self._shapes[0, 2])

    def prefetch(self, block: Block) -> None:
        """Have the system read what a block needs, unless it is in memory already."""
        offsets, run_length = self._runs(block)
        value_bytes = self._reader.dtype.itemsize
        files = self._reader.files
        probed = offsets[:: max(1, len(offsets) // _PROBED_RUNS)] * value_bytes
        if not files.is_resident(probed.tolist()):
            for start in (offsets * value_bytes).tolist():
                files.prefetch(start, run_length * value_bytes)

    def fill(self, block: Block, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copy a block's tiles; return features [n, C, h, w], indices [n] and sizes [n, 2]."""
        part = slice(block.first, block.last)
        self._reader.require_whole(self._order[part])
        copy_runs(self._reader.values, *self._runs(block), memory)
        height, width = block.tile_hw
        tiles = memory.view(block.last - block.first, height, width, -1)
        return (
            tiles.permute(0, 3, 1, 2),
            torch.from_numpy(self._order[part]),
            torch.from_numpy(self.sizes[part]),
        )

    def _runs(self, block: Block) -> tuple[NDArray[Any], int]:
        part = slice(block.first, block.last)
        return tile_runs(
            self._starts[part],
            self._shapes[part, 1],
            self._corners[part],
            self.sizes[part],
            block.tile_hw,
            int(self._shapes[0, 2]),
        )


def _filled(epoch: _Epoch, blocks: list[Block], ring: _Ring) -> Iterator[tuple[Tensor, ...]]:
    """Fill block after block, having the next one read from storage meanwhile."""
    for number, block in enumerate(blocks):
        if number == 0:
            epoch.prefetch(block)
        if number + 1 < len(blocks):
            epoch.prefetch(blocks[number + 1])
        yield epoch.fill(block, ring.memory(epoch.num_values(block)))


def _ahead(items: Iterable[Item], *, depth: int) -> Iterator[Item]:
    """Run an iterator in a thread, at most `depth` items ahead; its errors surface here."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    # A few cores saturate the memory; more would only disturb the caller's computation.
    num_cores = min(_COPYING_CORES, torch.get_num_threads())

    def put(item: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        limit_cores(num_cores)
        try:
            for item in items:
                if not put(item):
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
            keep_default()
            yield item
    finally:
        stopped.set()
        thread.join()
