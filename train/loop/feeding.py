"""How batches reach runs: each asks for the next one, and goes on when it has been given it.

A run that trains by itself is fed from its own stream. Runs that train in lock-step follow one
stream, which reads each batch once; where each of them stands in it, and is saved to stand, is its
own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from torch import Tensor

from data.reading.level_stream import Batch
from data.reading.transfer import Waiting, on_device
from train.context.beside import as_read
from train.loop.job import Caches, Job, make_stream, open_caches, refuse_unfit
from train.machine.distributed import ALONE


class BatchStream(Protocol):
    """A level's batches, epoch after epoch, from a position on that can be saved and set."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the epoch."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position."""


@dataclass(frozen=True, slots=True)
class Given:
    """A batch, its features `x` [B, C, H, W] on the device, and how long it took to come.

    On a CPU `x` is float32, on a GPU of the type that is stored. It is valid until the next batch
    is asked for, and is not to be changed: others have it too.
    """

    batch: Batch
    x: Tensor
    waited_s: float


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What a run asks for: the next batch of a stream; it saves its state in `folder`.

    `in_context` gives it the context that its codec sees, on the device.
    """

    stream: BatchStream
    folder: Path
    in_context: Callable[[Batch], Batch] = as_read


Training = Generator[BatchRequest, "Given | None", Path]
"""A run under way: it is sent what it asks for, None at the end of an epoch; returns its folder."""


def batches_of(wanted: BatchRequest, device: str) -> Generator[Given, None, None]:
    """Yield the rest of the epoch of the stream that is asked for, on the device."""
    waiting, before = Waiting(), 0.0
    for batch, x in on_device(wanted.stream, device, waiting, as_stored=True):
        yield Given(wanted.in_context(batch), x, waiting.seconds - before)
        before = waiting.seconds


def fed_alone(training: Training, device: str) -> Path:
    """Train a run on the batches of its own stream; return, or raise, what it does."""
    with closing(training):
        try:
            wanted = next(training)
            while True:
                wanted = _fed_an_epoch(training, wanted, device)
        except StopIteration as end:
            folder: Path = end.value
            return folder


def _fed_an_epoch(training: Training, wanted: BatchRequest, device: str) -> BatchRequest:
    batches = batches_of(wanted, device)
    while True:
        try:
            given = next(batches, None)
        except Exception as error:  # the run knows what its user is to be told of it
            return training.throw(error)
        wanted = training.send(given)
        if given is None:
            return wanted


class Follower:
    """A run's own position in a stream that others read from elsewhere too, one at a time."""

    def __init__(self, source: BatchStream) -> None:
        self._source = source
        self._position = source.state_dict()

    def __iter__(self) -> Iterator[Batch]:
        self._source.load_state_dict(self._position)
        for batch in self._source:
            self._position = self._source.state_dict()
            yield batch
        self._position = self._source.state_dict()

    def __len__(self) -> int:
        return len(self._source)

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return self._position

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position."""
        self._position = state


class CommonSource:
    """Caches and a stream for runs of equal `stream_settings`, opened when the first one asks."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._caches: Caches | None = None
        self._stream: BatchStream | None = None
        self._start: dict[str, Any] = {}

    def __enter__(self) -> CommonSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def caches(self, job: Job, between_batches: Callable[[], None] = lambda: None) -> Caches:
        """Return the caches; raises what `open_caches` does."""
        if self._caches is None:
            self._caches = self._opened.enter_context(open_caches(job, between_batches))
        refuse_unfit(self._caches, job.config)
        return self._caches

    def stream(self, job: Job) -> Follower:
        """Return the stream, at its beginning."""
        if self._stream is None:
            self._stream = make_stream(job, self.caches(job), ALONE)
            self._start = self._stream.state_dict()
        follower = Follower(self._stream)
        follower.load_state_dict(self._start)
        return follower
