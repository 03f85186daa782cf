"""What the readers that are compared have in common: the samples, the batch, the consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.benchmarks.synthetic_cache import random_map

BATCH_SIZE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The maps that every contestant stores and delivers, float16 [H, W, C] each."""

    level: int
    num: int
    shape: tuple[int, int, int]

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return 2 * int(np.prod(self.shape))

    def __getitem__(self, index: int) -> NDArray[Any]:
        """Return one sample."""
        return random_map(index, self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A way to read: `epoch(number)` yields `num_samples` in shuffled batches [B, C, H, W]."""

    epoch: Callable[[int], Iterator[Tensor]]
    num_samples: int


class BatchBuffer:
    """One reused batch, channels last: a new one each time would cost its page faults.

    NumPy fills it. torch would use all cores: a third faster for large samples on an idle machine,
    many times slower as soon as another process wants one of the cores.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.slots = np.empty((BATCH_SIZE, *shape), dtype=np.float16)
        self.features = torch.from_numpy(self.slots).permute(0, 3, 1, 2)

    def batches(self, samples: Iterable[NDArray[Any]]) -> Iterator[Tensor]:
        """Copy samples of any shape, one after another, into the batch; yield it when full."""
        shape = self.slots.shape[1:]
        count = 0
        for sample in samples:
            self.slots[count] = sample.reshape(shape)
            count += 1
            if count == BATCH_SIZE:
                yield self.features
                count = 0
        if count:
            yield self.features[:count]


def shuffled(num_samples: int, epoch: int) -> NDArray[Any]:
    """Return an order over the whole split, int64, a new one for each epoch."""
    return np.random.default_rng(epoch).permutation(num_samples)


def groups(order: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Cut an order into batches."""
    for start in range(0, len(order), BATCH_SIZE):
        yield order[start : start + BATCH_SIZE]


def consume(batches: Iterable[Tensor], samples: Samples) -> int:
    """Take an epoch's batches as a training loop would get them; return how many samples came."""
    height, width, channels = samples.shape
    count = 0
    for features in batches:
        assert features.shape[1:] == (channels, height, width)
        assert features.is_contiguous(memory_format=torch.channels_last)
        count += len(features)
    return count
