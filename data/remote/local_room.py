"""The folder for copies of remote caches on this machine, and the bound on what it holds."""

from __future__ import annotations

import fcntl
import math
import os
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import ConfigError, MachineError
from data.places.local_disk import disk_told
from data.remote.held_shard import HeldShard, held_path, shards_below
from data.system.array_files import give_space_back, is_remote

_LOCK = "making-room.lock"
_TOLD_EACH = 64  # parts of the bound: to look at all files for each sample would take long
_STAT_BLOCK_BYTES = 512
_LEFT_FREE = 1 / 16  # of the bound, whenever room is made


@dataclass
class LocalRoom:
    """At most about `max_bytes` of samples below `folder`, whichever processes read them.

    Of what is too much, the shards that were opened longest ago give first; of one shard samples
    drawn by lot: a run comes back to all of them once an epoch, and if always the oldest went, all
    would have gone before their turn came.
    """

    folder: Path
    max_bytes: int
    _begun: float = field(default_factory=time.time)
    _new_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def require_holes(self) -> None:
        """Raise ConfigError if the disk is of several machines, or takes no space back of files.

        MachineError if nothing can be written there at all.
        """
        probe = self.folder / f"probe-{os.getpid()}"
        with disk_told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if is_remote(self.folder):  # what one machine drops there, another would still see
                raise ConfigError(
                    f"--local-cache {self.folder}: is on a network file system: choose a folder "
                    "on a disk of this machine alone"
                )
            try:
                probe.write_bytes(bytes(2**13))
                _require_holes(probe, self.folder)
            finally:
                probe.unlink(missing_ok=True)

    def took(self, num_bytes: int) -> None:
        """Note that so much was written, and make room if it is time to look whether it is due."""
        with self._lock:
            self._new_bytes += num_bytes
            if self._new_bytes < self.max_bytes / _TOLD_EACH:
                return
            self._new_bytes = 0
        self.make_room()

    def make_room(self) -> None:
        """Take samples away until the bound is kept; nothing if another process is at it."""
        try:
            handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._make_room()
            finally:
                os.close(handle)
        except BlockingIOError:
            pass
        except OSError as error:
            raise MachineError(
                f"{self.folder}: no room can be made ({error.strerror}): mend it, or choose "
                "another --local-cache"
            ) from error

    def _make_room(self) -> None:
        opened: list[tuple[float, Path]] = []
        excess = -self.max_bytes
        for shard in shards_below(self.folder):
            with suppress(FileNotFoundError):  # replaced just now
                num_bytes = shard.stat().st_blocks * _STAT_BLOCK_BYTES
                opened.append((held_path(shard).stat().st_mtime, shard))
                excess += num_bytes
        if excess <= 0:
            return
        excess += int(self.max_bytes * _LEFT_FREE)
        old = [shard for when, shard in sorted(opened) if when < self._begun]
        ours = [shard for when, shard in opened if when >= self._begun]
        random.shuffle(ours)
        # Of old shards all, of ours at first half of each, so that no shard is emptied for others.
        for shard, share in [
            *((each, 1.0) for each in old),
            *((e, s) for s in (0.5, 1) for e in ours),
        ]:
            if excess <= 0:
                return
            excess -= _dropped(shard, share, excess)


def _require_holes(probe: Path, folder: Path) -> None:
    try:
        with probe.open("r+b") as file:
            give_space_back(file.fileno(), 0, 2**12)
    except OSError as error:
        raise ConfigError(
            f"--local-cache {folder}: cannot hold parts of files ({error.strerror}): choose a "
            "folder on a local disk"
        ) from error


def _dropped(shard: Path, share: float, most_bytes: int) -> int:
    """Drop a share of what is held of a shard, drawn by lot; return how many bytes that gives."""
    given = 0
    with suppress(FileNotFoundError):  # replaced just now
        held = HeldShard(shard)
        there = held.rows_there()
        for row in random.sample(there, math.ceil(share * len(there))):
            if given >= most_bytes:
                break
            given += held.drop(row)
    return given
