"""Shuffled batches from a level, as fast as memory; and whole maps in order, for evaluation.

A ring of reused buffers is filled in turn; each buffer takes one block of batches with a single
copying call, made when the block's first batch is asked for. That takes a thousandth of a step on a
CPU, which has no core to spare for a thread; beside a GPU (`read_ahead`) a thread fills large
batches while the caller computes. What is not in memory yet the system is told to read one block
ahead. The `keep` latest batches are valid, older ones may have been filled anew. Pass `copy=True`
to collect batches.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from data.coding.byte_code import ByteCode
from data.reading.epoch_tiles import Block, Epoch
from data.reading.level_reader import LevelReader
from data.reading.order import epoch_order, epoch_order_by_shards, level_draws
from data.reading.read_ahead import ReadAhead, spare_cores
from data.reading.resident import ResidentMaps

_SHARD_WINDOW = 4
# Whole maps of a fine level are far larger than crops; 64 MiB in float32 keep a device busy.
_MOST_VALUES = 16 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """`features` [B, C, H, W] channels_last in the stored dtype; `sizes` int64 [B, 2] real (h, w).

    Where these are bytes, `code` says what they stand for; `on_device` makes values of them.

    Maps smaller than the batch are padded by replication; `indices` int64 [B] are sample numbers,
    `corners` int64 [B, 2] where crops begin in the stored maps, (top, left).
    Of a batch that several ranks share, this is the rank's part: from row `first_row` of
    `batch_rows` on; `batch_positions` are the real positions of the whole batch.
    """

    features: Tensor
    indices: Tensor
    sizes: Tensor
    corners: Tensor
    level: int
    first_row: int
    batch_rows: int
    batch_positions: int
    code: ByteCode | None = None


class LevelStream(IterableDataset[Batch]):
    """One epoch of shuffled batches over the whole split each time it is iterated.

    `crop`: side of a random crop in feature positions, smaller maps whole; None: whole maps.
    `shuffle`: `full` draws over the whole split; `shards` shuffles the shards and, within windows
    of four, their samples, for caches larger than memory. `keep`: how many
    batches are valid at a time: a ring of one stays in a CPU's cache, which doubles the speed. For
    a GPU: `pin_memory` for asynchronous copies, `read_ahead` for a thread that fills large batches
    ahead, with the cores to spare; or `resident`: the level's maps on a device, where batches then
    are made. `rank` of `num_ranks` processes takes its share of every batch.
    """

    def __init__(
        self, reader: LevelReader, *, batch_size: int, crop: int | None, seed: int = 0,
        copy: bool = False, shuffle: Literal["full", "shards"] = "full",
        keep: int = 1, pin_memory: bool = False, read_ahead: bool = False,
        rank: int = 0, num_ranks: int = 1, resident: ResidentMaps | None = None,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._batch_size = batch_size
        self._crop = crop
        self._seed = seed
        self._copy = copy
        self._shuffle = shuffle
        self._keep = keep
        self._resident = resident
        self._rank, self._num_ranks = rank, num_ranks
        self._pin_memory = pin_memory
        self._read_ahead = read_ahead and resident is None
        self._ring: _Ring | ReadAhead | None = None
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
            # Each worker would yield the whole epoch, and its position would stay in the worker.
            raise RuntimeError("LevelStream reads at memory speed by itself: use num_workers=0")
        epoch = Epoch(
            self._reader, self._order(), self._crop, self._seed, self._epoch,
            batch_size=self._batch_size, rank=self._rank, num_ranks=self._num_ranks,
            resident=self._resident,
        )  # fmt: skip
        blocks = epoch.blocks(self._next_batch)
        # Kept between epochs, as fresh memory costs more than the copies; two iterators at once
        # have one ring each.
        ring, self._ring = self._ring, None
        # Many small batches in a block are copied faster than a thread is woken.
        ahead = self._read_ahead and all(len(block.counts) == 1 for block in blocks)
        if not isinstance(ring, ReadAhead if ahead else _Ring):
            ring = self._new_ring(ahead)
        filled = ring.filled(epoch, blocks)
        try:
            for block, parts in zip(blocks, filled, strict=True):
                cut = (torch.split(part, list(block.counts)) for part in parts)
                for number, (features, indices, sizes, corners) in enumerate(
                    zip(*cut, strict=True)
                ):
                    self._next_batch += 1
                    yield Batch(
                        features=features.clone() if self._copy else features,
                        indices=indices,
                        sizes=sizes,
                        corners=corners,
                        level=self._reader.info.index,
                        code=self._reader.code,
                        **epoch.whole_batch(block.first_batch + number),
                    )
        finally:
            filled.close()
            self._ring = ring
        self._epoch, self._next_batch = self._epoch + 1, 0

    def _new_ring(self, ahead: bool) -> _Ring | ReadAhead:
        dtype, keep = self._reader.values_to_gather.dtype, self._keep
        if ahead:
            return ReadAhead(
                dtype,
                keep=keep,
                pin_memory=self._pin_memory,
                num_cores=spare_cores(self._num_ranks),
            )  # fmt: skip
        if self._resident is not None:
            return _Ring(dtype, keep, device=self._resident.device)
        return _Ring(dtype, keep, pin_memory=self._pin_memory)

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
    """Buffers that are filled in turn; each grows to the largest block it has held.

    On a GPU all memory is new: torch knows when the streams that use it are done with it.
    """

    def __init__(
        self, dtype: torch.dtype, depth: int, *, pin_memory: bool = False,
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self._slots = [torch.empty(0, dtype=dtype, device=device) for _ in range(depth)]
        self._pin_memory = pin_memory
        self._next = 0

    def filled(
        self, epoch: Epoch, blocks: list[Block]
    ) -> Generator[tuple[Tensor, ...], None, None]:
        """Fill block after block, having the next one read from storage meanwhile."""
        for number, block in enumerate(blocks):
            if number == 0:
                epoch.prefetch(block)
            if number + 1 < len(blocks):
                epoch.prefetch(blocks[number + 1])
            yield epoch.fill(block, self._memory(epoch.num_values(block)))

    def _memory(self, num_values: int) -> Tensor:
        """Return the next slot's first values, [num_values]."""
        slot, self._next = self._next, (self._next + 1) % len(self._slots)
        if self._slots[slot].is_cuda:
            return self._slots[slot].new_empty(num_values)
        if self._slots[slot].numel() < num_values:
            self._slots[slot] = torch.empty(
                num_values, dtype=self._slots[slot].dtype, pin_memory=self._pin_memory
            )
        return self._slots[slot][:num_values]


def whole_map_batches(
    reader: LevelReader, batch_size: int, indices: Sequence[int] | None = None
) -> Iterator[Batch]:
    """Yield every sample's values once as whole maps, one shape at a time, in the manifest's order.

    A batch is of at most `batch_size` maps, and of at most 16 Mi values, but of one map at least:
    what it takes does not grow with the batches of crops that training takes.
    """
    wanted = range(reader.num_samples) if indices is None else indices
    by_shape: dict[tuple[int, int, int], list[int]] = {}
    for index in wanted:
        by_shape.setdefault(reader.shape(index), []).append(index)
    for (height, width, channels), members in by_shape.items():
        num_maps = max(1, min(batch_size, _MOST_VALUES // (height * width * channels)))
        for start in range(0, len(members), num_maps):
            group = members[start : start + num_maps]
            stacked = np.stack([reader.sample(index) for index in group])
            yield Batch(
                features=torch.from_numpy(stacked).permute(0, 3, 1, 2),
                indices=torch.tensor(group),
                sizes=torch.tensor([[height, width]] * len(group)),
                corners=torch.zeros(len(group), 2, dtype=torch.int64),
                level=reader.info.index,
                first_row=0,
                batch_rows=len(group),
                batch_positions=height * width * len(group),
            )


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
