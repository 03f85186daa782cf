"""A level of a copied cache: samples are fetched when they are asked for, many at a time.

Whole samples, also where only a crop is wanted: so their checksums can be compared when they come,
and the second epoch, whose crops are others, finds them here. Neighbours that lack share a request,
a large sample takes several.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from configs.errors import CacheError, MachineError, UserError
from data.cache.cache_folder import CacheFolder
from data.cache.commit_log import expected_checksums
from data.places.local_disk import disk_told
from data.places.object_store import PART_BYTES
from data.remote.held_shard import HeldShard
from data.remote.local_copy import LocalCopy
from data.remote.shard_files import open_shards

_REQUESTS = 32  # under way at once
_MOST_GAP_BYTES = 2**20  # between neighbours: asking for them apart would take longer
_MOST_BYTES = 2**28  # of samples that are on their way, and one more
_TRIES = 16


@dataclass(frozen=True)
class _Run:
    """Samples of a shard, ascending, that lie near one another: what is asked for together."""

    shard: HeldShard
    first_id: int
    rows: Sequence[int]

    @property
    def start(self) -> int:
        return int(self.shard.offsets[self.rows[0]])

    @property
    def num_bytes(self) -> int:
        return int(self.shard.offsets[self.rows[-1]]) + self.shard.sample_bytes - self.start


class HeldLevel:
    """The level's samples by their number: bucket by bucket, row by row, as the shards have them.

    Raises CacheError if a shard is not there or its index is damaged.
    """

    def __init__(self, copy: LocalCopy, folder: CacheFolder, level: int) -> None:
        self._copy = copy
        self._folder = folder
        self._level = level
        self._shards = open_shards(copy, folder.manifest, level)
        lengths = [len(shard.offsets) for shard in self._shards]
        self._first: NDArray[Any] = np.cumsum([0, *lengths])
        settled = [shard.is_settled for shard in self._shards]
        self._process = os.getpid()
        self._unchecked = np.repeat(~np.array(settled), lengths)
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._under_way: dict[int, Future[None]] = {}
        self._expected: list[int | None] | None = None
        self._samples = ThreadPoolExecutor(_REQUESTS, "fetching")
        self._requests = ThreadPoolExecutor(_REQUESTS, "asking")
        largest = max(shard.sample_bytes for shard in self._shards)
        self._memory = threading.Semaphore(max(1, _MOST_BYTES // max(PART_BYTES, largest)))

    @classmethod
    def of(cls, folder: CacheFolder, level: int) -> HeldLevel | None:
        """Return the level of a cache that is a copy; None of one that lies here itself."""
        copy = LocalCopy.at(folder.path)
        return None if copy is None else cls(copy, folder, level)

    def copied(self, numbers: NDArray[Any], copy: Callable[[], None]) -> None:
        """Call what copies these samples once they are here; again if one of them went meanwhile.

        Raises CacheError if a sample is damaged, MachineError if there is no room for all of them.
        """
        numbers = np.unique(numbers)
        for _ in range(_TRIES):
            self._fetch_lacking(numbers)
            seen = self._counts(numbers)
            if not (seen & 1).all():
                continue
            copy()
            if np.array_equal(self._counts(numbers), seen):
                return
        num_bytes = sum(self._shards[n].sample_bytes for n in self._shard_of(numbers))
        raise MachineError(
            f"--local-cache-gb {self._copy.room.max_bytes / 1e9:g}: too little for what is read at "
            f"once, which takes {num_bytes / 1e9:.2g} GB: give it several times as much"
        )

    def expect(self, numbers: NDArray[Any]) -> None:
        """Begin to fetch what of these samples is not here; whoever needs one waits for it."""
        counts = self._counts(numbers)
        self._fetching(numbers[(counts & 1) == 0])

    def close(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        self._samples.shutdown(cancel_futures=True)
        self._requests.shutdown()

    def _fetch_lacking(self, numbers: NDArray[Any]) -> None:
        """Fetch what lacks of samples, and what turns out to be no longer what it was."""
        there = (self._counts(numbers) & 1) == 1
        for number in numbers[there & self._unchecked[numbers]].tolist():
            self._check_again(number)
        for future in self._fetching(numbers[(self._counts(numbers) & 1) == 0]):
            future.result()

    def _check_again(self, number: int) -> None:
        shard, row = self._place(number)
        expected = self._checksum(number)
        with disk_told(shard.path):
            if expected is not None and xxhash.xxh3_64_intdigest(shard.content(row)) != expected:
                shard.drop(row)
        self._unchecked[number] = False

    def _shard_of(self, numbers: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = np.searchsorted(self._first, numbers, side="right") - 1
        return found

    def _place(self, number: int) -> tuple[HeldShard, int]:
        shard = int(self._shard_of(np.array(number)))
        return self._shards[shard], number - int(self._first[shard])

    def _counts(self, numbers: NDArray[Any]) -> NDArray[Any]:
        counts = np.empty(len(numbers), np.uint32)
        shards = self._shard_of(numbers)
        for shard in np.unique(shards).tolist():
            here = shards == shard
            counts[here] = self._shards[shard].counts[numbers[here] - self._first[shard]]
        return counts

    def _fetching(self, numbers: NDArray[Any]) -> set[Future[None]]:
        """Return what is under way for samples that lack; what is not is begun."""
        if self._process != os.getpid():
            raise UserError(
                f"{self._copy.remote}: cannot be read in a forked process: give DataLoader "
                "multiprocessing_context='spawn', or take LevelStream, which needs no workers"
            )
        with self._lock:
            new = [n for n in numbers.tolist() if n not in self._under_way]
            for run in self._runs(sorted(new)):
                future = self._samples.submit(self._fetch, run)
                self._under_way.update((run.first_id + row, future) for row in run.rows)
            return {self._under_way[n] for n in numbers.tolist()}

    def _runs(self, numbers: Sequence[int]) -> Iterator[_Run]:
        rows: list[int] = []
        first, before = 0, None
        for number in numbers:
            shard, row = self._place(number)
            if before is not None and (shard is not before or not _share(shard, rows, row)):
                yield _Run(before, first, tuple(rows))
                rows = []
            first = number - row
            if rows:  # what lies between comes along, and is kept: an epoch takes all of them
                rows.extend(self._lacking(shard, first, range(rows[-1] + 1, row)))
            rows.append(row)
            before = shard
        if before is not None:
            yield _Run(before, first, tuple(rows))

    def _lacking(self, shard: HeldShard, first: int, rows: range) -> Iterator[int]:
        for row in rows:
            if not shard.counts[row] & 1 and first + row not in self._under_way:
                yield row

    def _fetch(self, run: _Run) -> None:
        try:
            with self._memory:
                parts = self._asked(run)
                for row in run.rows:
                    self._take(run, row, parts)
        finally:
            with self._lock:
                for row in run.rows:
                    del self._under_way[run.first_id + row]

    def _asked(self, run: _Run) -> list[memoryview]:
        """Return a run's bytes in parts; of those of several each is asked for at once."""
        name = self._copy.name_of(run.shard.path)
        asked = [
            self._requests.submit(
                self._copy.remote.get_range, name, run.start + at,
                min(PART_BYTES, run.num_bytes - at),
            )
            for at in range(0, run.num_bytes, PART_BYTES)
        ]  # fmt: skip
        return [each.result() for each in asked]

    def _take(self, run: _Run, row: int, parts: list[memoryview]) -> None:
        """Check a sample and keep it; of one whose checksum differs another copy is asked for."""
        expected = self._checksum(run.first_id + row)
        for again in (True, False):
            if len(run.rows) > 1:
                begin = int(run.shard.offsets[row]) - run.start
                content = [parts[0][begin : begin + run.shard.sample_bytes]]
            else:
                content = parts
            digest = xxhash.xxh3_64()
            for part in content:
                digest.update(part)
            if expected is None or digest.intdigest() == expected:
                self._keep(run.shard, row, content)
                return
            if again:
                run = _Run(run.shard, run.first_id, (row,))
                parts = self._asked(run)
        manifest = self._folder.manifest
        raise CacheError(
            f"level {self._level}, {self._copy.remote}/{self._copy.name_of(run.shard.path)}: "
            f"sample {row} is damaged: remove this object, and run extract-features --split "
            f"{manifest.split} again, which sends it anew"
        )

    def _keep(self, shard: HeldShard, row: int, content: list[memoryview]) -> None:
        try:
            shard.store(row, content)
        except OSError as error:
            raise MachineError(
                f"{shard.path}: cannot be written ({error.strerror or error}): free space, or give "
                "less to --local-cache-gb"
            ) from error
        self._copy.room.took(shard.sample_bytes)

    def _checksum(self, number: int) -> int | None:
        """Return what was committed; read once, as the log of a large cache takes its time."""
        with self._reading:
            if self._expected is None:
                commits = self._folder.commits
                by_bucket = expected_checksums(self._folder.manifest, commits, self._level)
                self._expected = list(chain.from_iterable(by_bucket))
        return self._expected[number]


def _share(shard: HeldShard, rows: Sequence[int], row: int) -> bool:
    """Say whether a sample is asked for together with those before it."""
    start, end = int(shard.offsets[row]), int(shard.offsets[row]) + shard.sample_bytes
    last = int(shard.offsets[rows[-1]]) + shard.sample_bytes
    together = end - int(shard.offsets[rows[0]])
    return 0 <= start - last <= _MOST_GAP_BYTES and together <= PART_BYTES
