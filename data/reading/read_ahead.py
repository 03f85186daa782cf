"""Blocks of large batches filled ahead of their use, by all cores that the machine has to spare.

A GPU takes 55 GB/s; one core copies a tenth of that. Each block is cut into equal parts, which
threads of one core copy; the next block is begun before one is done, so that none waits for the
last part. Whenever a caller finds nothing ready, there is one buffer more, up to a limit.
"""

from __future__ import annotations

import os
import queue
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from configs.cores import usable_cores
from data.reading.epoch_tiles import Block, Epoch
from data.reading.tiles import TileMemory
from data.system.threads import limit_cores, run_ahead

_UNDER_WAY = 2
"""Blocks that are filled at once."""
_MOST_BYTES = 2**30
"""Of all buffers together, beyond the fewest that there can be."""


class ReadAhead:
    """Buffers of the levels' dtypes, and what fills them; the `keep` latest blocks stay valid."""

    def __init__(
        self, dtypes: Sequence[torch.dtype], *, keep: int, pin_memory: bool, num_cores: int
    ) -> None:
        self._keep = keep
        self._num_cores = num_cores
        self._new_slot = partial(TileMemory, dtypes, pin_memory=pin_memory)
        self._slots = [self._new_slot() for _ in range(keep + _UNDER_WAY)]
        self._num_filled = 0

    @property
    def depth(self) -> int:
        """Number of buffers."""
        return len(self._slots)

    def filled(
        self, epoch: Epoch, blocks: Sequence[Block]
    ) -> Generator[tuple[Tensor, ...], None, None]:
        """Yield what `Epoch.fill` returns for block after block; errors of the threads surface."""
        free: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for slot in range(self.depth):
            free.put(slot)
        held: deque[int] = deque()
        self._num_filled = 0
        with ThreadPoolExecutor(
            self._num_cores, "copying", initializer=limit_cores, initargs=(1,)
        ) as pool:
            # The buffers are what limits it.
            filling = run_ahead(self._filling(epoch, blocks, free, pool), depth=0, most_cores=1)
            try:
                for number in range(len(blocks)):
                    if len(held) == self._keep:
                        free.put(held.popleft())
                    if number and self._num_filled == number and self._has_room():
                        self._slots.append(self._new_slot())
                        free.put(self.depth - 1)
                    slot, parts = next(filling)
                    held.append(slot)
                    yield parts
            finally:
                free.put(None)
                filling.close()

    def _filling(
        self, epoch: Epoch, blocks: Sequence[Block], free: queue.SimpleQueue[int | None],
        pool: ThreadPoolExecutor,
    ) -> Iterator[tuple[int, tuple[Tensor, ...]]]:  # fmt: skip
        """Yield the number of a buffer and what it holds, block after block."""
        under_way: deque[tuple[int, tuple[Tensor, ...], list[Future[None]]]] = deque()

        def next_done() -> tuple[int, tuple[Tensor, ...]]:
            slot, parts, copies = under_way.popleft()
            for copy in copies:
                copy.result()
            self._num_filled += 1
            return slot, parts

        for number, block in enumerate(blocks):
            epoch.prefetch_next(blocks, number)
            # Who waits for a buffer holds nothing back that the caller could take.
            while under_way and (len(under_way) == _UNDER_WAY or free.empty()):
                yield next_done()
            slot = free.get()
            if slot is None:
                return
            memory = self._slots[slot].of(epoch.num_values(block))
            copies = [
                pool.submit(copy) for copy in epoch.copies(block, memory, num_parts=self._num_cores)
            ]
            under_way.append((slot, epoch.parts(block, memory), copies))
        while under_way:
            yield next_done()

    def _has_room(self) -> bool:
        largest = max(slot.num_bytes for slot in self._slots)
        return (self.depth + 1) * largest <= _MOST_BYTES


def spare_cores(num_ranks: int) -> int:
    """Return how many cores a process has beside the one that asks the GPU for its steps."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", num_ranks))  # torchrun tells of this machine
    return max(1, usable_cores() // here - 1)
