"""Shuffled batches from a level, as fast as memory.

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

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from configs.errors import ConfigError
from data.coding.byte_code import ByteCode
from data.reading.companion import Companion, common_stride
from data.reading.epoch_tiles import Block, Epoch
from data.reading.level_reader import LevelReader
from data.reading.order import epoch_order, epoch_order_by_shards
from data.reading.read_ahead import ReadAhead, spare_cores
from data.reading.resident import ResidentMaps
from data.reading.tiles import TileMemory

_SHARD_WINDOW = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """`features` [B, C, H, W] channels_last in the stored dtype; `sizes` int64 [B, 2] real (h, w).

    Where these are bytes, `code` says what they stand for; `on_device` makes values of them.

    Maps smaller than the batch are padded by replication; `indices` int64 [B] are sample numbers,
    `corners` int64 [B, 2] where crops begin in the stored maps, (top, left).
    Of a batch that several ranks share, this is the rank's part: from row `first_row` of
    `batch_rows` on; `batch_positions` are the real positions of the whole batch.

    `beside`: of each companion with a stride s the same places [B, C', ceil(H / s), ceil(W / s)],
    channels_last in its own dtype, padded in the same way.
    """

    features: Tensor
    indices: Tensor
    sizes: Tensor
    corners: Tensor
    level: int
    first_row: int
    batch_rows: int
    batch_positions: int
    beside: tuple[Tensor, ...] = ()
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

    `beside`: what is read with each sample, at the places of its crop; from files, also where the
    level is `resident`. Corners of crops are then multiples of all strides, each as likely. So that
    the last rows and columns are seen, the last corner's crop may reach beyond the map: its tile
    is cut there and padded by replication, as a map smaller than the crop is. Raises CacheError if
    a companion is not of the same samples and positions, ConfigError if a crop is smaller than the
    least common multiple of the strides: what lies between corners would never be seen.
    """

    def __init__(
        self, reader: LevelReader, *, batch_size: int, crop: int | None, seed: int = 0,
        copy: bool = False, shuffle: Literal["full", "shards"] = "full",
        keep: int = 1, pin_memory: bool = False, read_ahead: bool = False,
        rank: int = 0, num_ranks: int = 1, resident: ResidentMaps | None = None,
        beside: Sequence[Companion] = (),
    ) -> None:  # fmt: skip
        for companion in beside:
            companion.require_beside(reader)
        stride = common_stride(beside)
        if crop is not None and crop < stride and (reader.shapes[:, :2] > crop).any():
            raise ConfigError(
                f"training.crop: crops of {crop} positions are smaller than {stride}, the common "
                f"stride of what is read beside level {reader.info.index}: it has to be at least "
                f"{stride}, or null for whole maps"
            )
        self._reader = reader
        self._beside = tuple(beside)
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
            resident=self._resident, beside=self._beside,
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
                for number, (features, indices, sizes, corners, *beside) in enumerate(
                    zip(*cut, strict=True)
                ):
                    self._next_batch += 1
                    yield Batch(
                        features=features.clone() if self._copy else features,
                        indices=indices,
                        sizes=sizes,
                        corners=corners,
                        beside=tuple(each.clone() if self._copy else each for each in beside),
                        level=self._reader.info.index,
                        code=self._reader.code,
                        **epoch.whole_batch(block.first_batch + number),
                    )
        finally:
            filled.close()
            self._ring = ring
        self._epoch, self._next_batch = self._epoch + 1, 0

    def _new_ring(self, ahead: bool) -> _Ring | ReadAhead:
        readers = [self._reader, *(companion.readers[0] for companion in self._beside)]
        dtypes = [reader.values_to_gather.dtype for reader in readers]
        if ahead:
            return ReadAhead(
                dtypes,
                keep=self._keep,
                pin_memory=self._pin_memory,
                num_cores=spare_cores(self._num_ranks),
            )  # fmt: skip
        device = None if self._resident is None else self._resident.device
        return _Ring(
            [
                TileMemory(dtypes, pin_memory=self._pin_memory, device=device)
                for _ in range(self._keep)
            ]
        )

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
    """Memory that is filled in turn."""

    def __init__(self, slots: Sequence[TileMemory]) -> None:
        self._slots = slots
        self._next = 0

    def filled(
        self, epoch: Epoch, blocks: list[Block]
    ) -> Generator[tuple[Tensor, ...], None, None]:
        """Fill block after block, having the next one read from storage meanwhile."""
        for number, block in enumerate(blocks):
            epoch.prefetch_next(blocks, number)
            slot, self._next = self._slots[self._next], (self._next + 1) % len(self._slots)
            yield epoch.fill(block, slot.of(epoch.num_values(block)))
