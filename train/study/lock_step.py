"""Runs of one level in one process: a batch is read, copied and converted once for all of them.

Whoever is furthest behind is given the next batch, with all that stand at the same place. So runs
that were interrupted at different places catch up with each other first, and go on together then.
Each has its own folder, random numbers, validation and end; nothing that happens to one changes a
bit of the others.
"""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import UserError, lack_of_memory
from data.system.stop_signals import StopSignals
from train.loop.feeding import BatchRequest, BatchStream, CommonSource, Given, Training, batches_of
from train.loop.job import Job
from train.loop.run import training
from train.machine.interruption import MemoryLackError, TrainingInterruptedError
from train.machine.own_state import OwnState, now_on, release_memory

log = logging.getLogger(__name__)

Ended = tuple[Job, "Path | UserError"]
"""A run that has ended: its folder, or what kept it from being finished."""


def train_together(jobs: Sequence[Job], stop: StopSignals) -> Iterator[Ended]:
    """Train runs of equal `stream_settings` on the same batches; yield each as it ends.

    If memory does not suffice for all, fewer are trained at once: those that step out follow, each
    from its last checkpoint, after the others.
    """
    waiting, most = list(jobs), len(jobs)
    while waiting:
        now, waiting = waiting[:most], waiting[most:]
        with closing(_Group(now, stop)) as group:
            yield from group.train()
        if group.stepped_out:
            most, waiting = group.most, [*group.stepped_out, *waiting]


@dataclass(slots=True)
class _Member:
    """A run of a group: what it asks for, None before it has begun, and what it has of its own."""

    job: Job
    training: Training
    own: OwnState
    wanted: BatchRequest | None = None

    @property
    def name(self) -> str:
        return f"level {self.job.level}, lambda {self.job.config.training.lmbda:g}"

    @property
    def position(self) -> dict[str, object]:
        return self.stream.state_dict()

    @property
    def stream(self) -> BatchStream:
        return self.request.stream

    @property
    def request(self) -> BatchRequest:
        assert self.wanted is not None, "a run that has begun asks for a batch"
        return self.wanted

    def go_on(self, turn: Callable[[Training], BatchRequest]) -> Path | None:
        """Take a turn; return the run's folder if it is finished with that."""
        with self.own.in_use():
            try:
                self.wanted = turn(self.training)
            except StopIteration as end:
                folder: Path = end.value
                return folder
        return None

    def close(self) -> None:
        """Let go of what it has in memory, locked or open."""
        with self.own.in_use():
            self.training.close()


class _Group:
    """Runs that are in memory at once."""

    def __init__(self, jobs: Sequence[Job], stop: StopSignals) -> None:
        self._stop = stop
        self._device = jobs[0].device
        self._source = CommonSource()
        self._members = [
            _Member(
                job=job,
                training=training(job, stop=stop, source=self._source),
                own=OwnState(job.device),
            )
            for job in jobs
        ]
        self.stepped_out: list[Job] = []
        """For which memory did not suffice."""
        self.most = len(jobs)
        """How many it has sufficed for since."""

    def train(self) -> Iterator[Ended]:
        """Train all; yield each as it ends, but for those that step out."""
        if len(self._members) > 1:
            log.info(
                "level %s: %d runs are trained in lock-step, each batch is read once: lambda %s",
                self._members[0].job.level, len(self._members),
                ", ".join(f"{each.job.config.training.lmbda:g}" for each in self._members),
            )  # fmt: skip
        for member in list(self._members):
            if self._stop.received is None:
                yield from self._turns([member], next)
            else:
                self._members.remove(member)
                yield member.job, _not_begun(self._stop.received)
        while self._members:
            yield from self._rest_of_epoch(min(self._members, key=_progress))

    def close(self) -> None:
        """Let go of all that is in memory or open."""
        for member in self._members:
            member.close()
        self._source.__exit__(None, None, None)
        self._members = []
        release_memory(self._device)

    def _rest_of_epoch(self, first: _Member) -> Iterator[Ended]:
        """Give out the batches from where `first` stands, while it goes on."""
        with closing(batches_of(first.request, self._device)) as batches:
            given: Given | None
            while first in self._members:
                before = first.position
                here = [member for member in self._members if member.position == before]
                try:
                    given = next(batches, None)
                except Exception as error:  # not of a run, but of reading or copying
                    first.stream.load_state_dict(before)
                    if lack_of_memory(error) is not None and len(self._members) > 1:
                        self._step_out(here[-1])
                    else:
                        yield from self._turns(here, _throws(error))
                    break
                for member in here:
                    member.stream.load_state_dict(first.position)
                yield from self._turns(here, _sends(given))
                if given is None:
                    return
        # Another reads on: copies of what was read ahead must not be under way any more.
        release_memory(self._device)

    def _turns(
        self, members: Sequence[_Member], turn: Callable[[Training], BatchRequest]
    ) -> Iterator[Ended]:
        """Let one after another go on; their work on a GPU is done side by side."""
        ready = now_on(self._device)
        for member in members:
            member.own.wait_for(ready)
            end: Path | UserError | None
            try:
                end = member.go_on(turn)
            except UserError as error:
                end = error
            if end is None:
                continue
            if isinstance(end, MemoryLackError) and len(self._members) > 1:
                end.__traceback__ = end.__cause__ = end.__context__ = None  # they hold its memory
                self._step_out(member)
            else:
                self._members.remove(member)
                yield member.job, end
        for member in members:
            member.own.is_waited_for()

    def _step_out(self, member: _Member) -> None:
        """Take a run out of memory; it follows after the others."""
        self._members.remove(member)
        self.most = len(self._members)
        member.close()
        job, wanted = member.job, member.wanted
        self.stepped_out.append(job if wanted is None else replace(job, resume=wanted.folder))
        log.warning(
            "%s: memory does not suffice for %d runs at once: it follows from its last checkpoint "
            "when %d of them have ended", member.name, self.most + 1, self.most,
        )  # fmt: skip
        gc.collect()
        release_memory(self._device)


def _progress(member: _Member) -> tuple[object, object]:
    position = member.position
    return position["epoch"], position["next_batch"]


def _sends(given: Given | None) -> Callable[[Training], BatchRequest]:
    return lambda run: run.send(given)


def _throws(error: Exception) -> Callable[[Training], BatchRequest]:
    return lambda run: run.throw(error)


def _not_begun(number: int) -> TrainingInterruptedError:
    return TrainingInterruptedError(
        f"stopped by {signal.Signals(number).name} before it went on: the same command goes on "
        "from there",
        number,
    )
