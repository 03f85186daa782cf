"""A reader in a process of its own, as in a training run.

In one process they would share the allocator, and large arrays that one of them frees would cost
the next its page faults: `np.load` was half as fast beside the others.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tests.benchmarks.contestant import Contestant, Samples, consume
from tests.benchmarks.rounds import timed

Maker = Callable[[Samples, Path, ExitStack], Contestant]


class OwnProcess:
    """Writes the samples in a new process when made; each call reads one epoch there."""

    def __init__(self, maker: Maker, samples: Samples, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_make, initargs=(maker, samples, folder)
        )
        self.num_samples: int = self._pool.submit(_num_samples).result()

    def __call__(self, number: int) -> float:
        """Return the seconds of an epoch, taken in the process that reads."""
        return self._pool.submit(_seconds, number).result()

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()


_made: list[tuple[Contestant, Samples]] = []
_resources = ExitStack()  # the process' end closes them


def _make(maker: Maker, samples: Samples, folder: Path) -> None:
    _made.append((maker(samples, folder, _resources), samples))


def _num_samples() -> int:
    return _made[0][0].num_samples


def _seconds(number: int) -> float:
    contestant, samples = _made[0]

    def read(epoch: int) -> None:
        assert consume(contestant.epoch(epoch), samples) == contestant.num_samples

    return timed(read)(number)
