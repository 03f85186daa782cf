"""Send what an extraction writes: whole shards, and units all of whose shards are there.

A unit whose coarse levels lie in a shard that still grows is not sent yet: who goes on elsewhere
computes it again. Here its samples are kept until then, whatever the bound on local copies.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from data.cache.commit_log import Commit, fitting, read_commits
from data.cache.containers import rows_of_shard, shards_of
from data.cache.manifest import FILE_NAME as MANIFEST_NAME
from data.cache.manifest import Manifest
from data.cache.plan import Unit, units_of, units_of_rows
from data.places.object_store import is_tag_of
from data.remote.held_shard import held_path, tag_of
from data.remote.local_copy import COMMITS, PLAN_NAME, Key, LocalCopy, at_once, shard_file
from data.remote.shard_files import bring_shard, describe_file, make_shard

_SHARDS_AT_ONCE = 2  # each in many parts
_MOST_WAITING = 4  # shards that are whole: the disk is not to fill with them

_OF_A_CACHE = re.compile(
    rf"{COMMITS}/|level_[0-9]+(\.zarr)?/|statistics_level_|annotations|{MANIFEST_NAME}$"
)


class Sender:
    """What of a split's cache has been sent, and what sends the rest; of the one that writes it.

    Raises one line for the user if the store refuses, or is out of reach for long: what is written
    here stays, and is sent by the next run.
    """

    def __init__(self, copy: LocalCopy, manifest: Manifest, pool: ThreadPoolExecutor) -> None:
        self._copy = copy
        self._manifest = manifest
        self._all_units = units_of(manifest)
        self._sent: set[Key] = set()
        self._lines: dict[int, bytes] = {}
        """Of units that are written here, and not in the store yet."""
        self._lock = threading.Lock()
        self._pool = pool
        self._waiting: deque[Future[None]] = deque()

    def prepare(self) -> None:
        """Make the store hold this plan, and the folder what is needed to go on with it."""
        remote = self._copy.remote
        with self._copy.alone():
            there = self._replaced(remote.versions())
            lines = self._copy.log_lines()
            commits = fitting(read_commits(self._copy.folder, statistics=False), self._manifest)
            if PLAN_NAME in lines and PLAN_NAME not in there:
                remote.put(PLAN_NAME, lines[PLAN_NAME])
            if MANIFEST_NAME not in there:  # where it is, what it is of is told
                remote.put(MANIFEST_NAME, self._copy.folder / MANIFEST_NAME)
            for unit in commits:
                if (name := f"{COMMITS}/{unit}.json") not in there:
                    self._lines[unit] = lines[name]
            unsent = at_once(lambda key: self._settle(key, there, commits), self._keys())
        for key in filter(None, unsent):
            self.shard_is_whole(key)
        self._send_ready(list(self._lines))

    def shard_is_whole(self, key: Key) -> None:
        """Send a shard, which is written in full."""
        held_path(self._path(key)).unlink(missing_ok=True)
        self._wait(_MOST_WAITING - 1)
        self._waiting.append(self._pool.submit(self._send_shard, key))

    def unit_is_written(self, commit: Commit) -> None:
        """Send a unit's commit as soon as all its shards are sent."""
        with self._lock:
            self._lines[commit.unit] = commit.to_line()
        self._waiting.append(self._pool.submit(self._send_ready, [commit.unit]))

    def finish(self) -> None:
        """Wait until all is sent; then send the small files."""
        self._wait(0)
        there = self._copy.remote.versions()

        def send(path: Path) -> None:
            name, content = self._copy.name_of(path), path.read_bytes()
            if not is_tag_of(there.get(name, (0, ""))[1], content):
                self._copy.remote.put(name, content)

        at_once(send, self._copy.small_files())

    def _wait(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft().result()

    def _keys(self) -> Iterator[Key]:
        yield from shards_of(self._manifest)

    def _path(self, key: Key) -> Path:
        return shard_file(self._copy.folder, self._manifest, key)

    def _units(self, key: Key) -> range:
        level, bucket, shard = key
        rows = rows_of_shard(self._manifest, level, bucket, shard)
        return units_of_rows(self._manifest, bucket, rows)

    def _replaced(self, there: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
        """Remove what is there of another plan, or of nobody knows which; return what stays."""
        remote, own = self._copy.remote, (self._copy.folder / MANIFEST_NAME).read_bytes()
        if MANIFEST_NAME in there and remote.get(MANIFEST_NAME) == own:
            return there
        ours = [name for name in there if _OF_A_CACHE.match(name)]
        # Commits first: what they speak of is gone then.
        remote.delete(sorted(ours, key=lambda name: not name.startswith(f"{COMMITS}/")))
        return {name: found for name, found in there.items() if name not in ours}

    def _settle(
        self, key: Key, there: dict[str, tuple[int, str]], commits: dict[int, Commit]
    ) -> Key | None:
        """Make a shard's file here what the store has; return its key if it is to be sent."""
        path, level = self._path(key), key[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        name, units = self._copy.name_of(path), self._units(key)
        whole = [unit for unit in units if unit in commits and level not in commits[unit].damaged]
        tag = tag_of(path)
        if path.exists() and tag is None:
            return key if len(whole) == len(units) else None  # of ours alone
        if name not in there:
            path.unlink(missing_ok=True)  # first: with nothing beside it, it would count as ours
            held_path(path).unlink(missing_ok=True)
            return None
        size, remote_tag = there[name]
        if len(whole) == len(units):
            if tag != remote_tag:
                make_shard(self._copy, self._manifest, key, size, remote_tag)
            self._sent.add(key)
        elif whole:
            bring_shard(self._copy, path, size)  # the writer goes on with it
        else:
            path.unlink(missing_ok=True)  # the writer begins a new one
            held_path(path).unlink(missing_ok=True)
        return None

    def _send_shard(self, key: Key) -> None:
        path = self._path(key)
        tag = self._copy.remote.put(self._copy.name_of(path), path)
        describe_file(path, tag, self._manifest, key, whole=True)
        with self._lock:
            self._sent.add(key)
        self._send_ready(self._units(key))
        self._copy.room.took(path.stat().st_size)

    def _send_ready(self, units: Iterable[int]) -> None:
        """Send the commits of those units whose shards are all there; each once."""
        for number in units:
            with self._lock:
                if not self._sent.issuperset(self._keys_of(self._all_units[number])):
                    continue
                line = self._lines.pop(number, None)
            if line is not None:
                self._copy.remote.put(f"{COMMITS}/{number}.json", line)

    def _keys_of(self, unit: Unit) -> Iterator[Key]:
        bucket = self._manifest.buckets[unit.bucket]
        for level in self._manifest.levels:
            per_shard = bucket.samples_per_shard[level.index]
            yield level.index, unit.bucket, unit.first_row // per_shard


@contextmanager
def sending(folder: Path, manifest: Manifest) -> Iterator[Sender | None]:
    """Yield what sends a cache that is the copy of a remote one, None for any other.

    At the end all has been sent that is whole.
    """
    copy = LocalCopy.at(folder)
    if copy is None:
        yield None
        return
    pool = ThreadPoolExecutor(_SHARDS_AT_ONCE, "sending")
    try:
        sender = Sender(copy, manifest, pool)
        sender.prepare()
        yield sender
        sender.finish()
    finally:
        pool.shutdown(cancel_futures=True)
