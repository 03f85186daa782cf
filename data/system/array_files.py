"""Files of arrays: mapped to be read, one after another, and written place by place.

Mapped into one range of addresses, so that a gather over a level is a single call, whatever shards
its samples lie in. Python's own mmap cannot choose an address; the C library's can. Files on other
machines are told apart: what comes over a network is read with more care.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import mmap
import os
import re
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAP_FIXED = 0x10  # the same on Linux, macOS and the BSDs
_PROT_NONE = 0
_FAILED = ctypes.c_void_p(-1).value
_WILLNEED, _RANDOM = 3, 1  # posix_madvise's numbers, the same everywhere

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
# Too short a call to let go of Python's lock for, and to wait for it again.
_mincore = ctypes.PyDLL(None).mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux alone has it
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_PUNCH_HOLE, _KEEP_SIZE = 2, 1  # of Linux's fallocate
_PIECE_BYTES = 2**18
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE


class MappedFiles:
    """Read-only bytes of many files: file i begins at `starts[i]`; gaps between files are unused.

    `memory` is uint8 [N], and cannot be made writable. `buffer` has the same bytes for libraries
    that take only what claims to be writable: a write to it kills the process, as no page is.
    Views of `memory` keep the mapping alive; it ends with the last of them. Raises OSError, with
    the file's name, if a file cannot be opened or mapped.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        sizes = [path.stat().st_size for path in paths]
        room = [-(-max(1, size) // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes]
        self.starts: NDArray[Any] = np.concatenate([[0], np.cumsum(room)])[:-1].astype(np.int64)
        self.num_bytes = int(sum(room))
        self._residency_is_told = all(
            path.stat().st_uid == os.geteuid() or os.access(path, os.W_OK) for path in paths
        )
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._address = _mapped(None, self.num_bytes, _PROT_NONE, flags, -1, None)
        region = (ctypes.c_char * self.num_bytes).from_address(self._address)
        weakref.finalize(region, _libc.munmap, self._address, self.num_bytes)
        for path, start, size in zip(paths, self.starts.tolist(), sizes, strict=True):
            if size:
                handle = os.open(path, os.O_RDONLY)
                try:
                    flags = mmap.MAP_SHARED | _MAP_FIXED
                    place = self._address + start
                    _mapped(place, size, mmap.PROT_READ, flags, handle, path)
                finally:
                    os.close(handle)
        self.buffer = memoryview(region).cast("B")
        self.memory: NDArray[Any] = np.frombuffer(self.buffer.toreadonly(), dtype=np.uint8)

    def expect_random_reads(self) -> None:
        """Tell the system to fetch nothing but what is asked for."""
        _libc.madvise(self._address, self.num_bytes, _RANDOM)

    def prefetch(self, start: int, num_bytes: int) -> None:
        """Have the system begin to read a range of bytes; returns before they have arrived."""
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        _libc.madvise(self._address + first, start + num_bytes - first, _WILLNEED)

    def is_resident(self, starts: Iterable[int]) -> bool:
        """Say whether the pages in which these bytes lie are all in the page cache.

        Linux tells that of files only to who owns them or may write them, and calls all others
        resident: False for these.
        """
        if not self._residency_is_told:
            return False
        page = ctypes.c_ubyte()
        for start in starts:
            first = self._address + start // mmap.PAGESIZE * mmap.PAGESIZE
            if _mincore(first, mmap.PAGESIZE, ctypes.byref(page)) == 0 and not page.value & 1:
                return False
        return True


def lie_apart(starts: Sequence[int], num_bytes: int, file_bytes: int) -> bool:
    """Say whether runs of `num_bytes` that begin at `starts` lie in a file and do not overlap.

    `starts` are Python's integers, which do not wrap: a file may claim anything below 2^64.
    """
    ordered = sorted(starts)
    ends = [start + num_bytes for start in ordered]
    apart = all(end <= start for end, start in zip(ends, ordered[1:], strict=False))
    return apart and ordered[0] >= 0 and ends[-1] <= file_bytes


def page_ranges(starts: NDArray[Any], num_bytes: int) -> list[tuple[int, int]]:
    """Return (start, length) of the pages of runs of `num_bytes` that begin at `starts`, joined.

    Runs may be as short as one position of a map and a hundred thousand; each page comes once.
    """
    if not len(starts):
        return []
    starts = np.sort(starts)
    first = starts // mmap.PAGESIZE
    last = (starts + num_bytes - 1) // mmap.PAGESIZE
    begins = np.flatnonzero(np.concatenate([[True], first[1:] > last[:-1] + 1]))
    ends = np.concatenate([begins[1:] - 1, [len(starts) - 1]])
    lengths = (last[ends] + 1 - first[begins]) * mmap.PAGESIZE
    return list(zip((first[begins] * mmap.PAGESIZE).tolist(), lengths.tolist(), strict=True))


def _mapped(
    address: int | None, num_bytes: int, protection: int, flags: int, handle: int, path: Path | None
) -> int:
    found = _libc.mmap(address, num_bytes, protection, flags, handle, 0)
    if found is None or found == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path) if path else None)
    return int(found)


# fuse.* covers sshfs and the object stores that are mounted (gcsfuse, s3fs, goofys, rclone).
_REMOTE = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "gluster", "afs", "9p", "fuse")


# The kernel writes space, tab, newline, backslash and # so, and all other bytes as they are.
_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")


def is_remote(folder: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Return whether a folder is on a network file system; False where nobody can tell."""
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return False
    resolved = folder.resolve()
    best, kind = -1, ""
    for line in lines:
        _, point, name, *_ = line.split(b" ")
        place = Path(os.fsdecode(_ESCAPED.sub(_unescaped, point)))
        if len(place.parts) >= best and resolved.is_relative_to(place):
            best, kind = len(place.parts), name.decode(errors="replace")
    return kind.startswith(_REMOTE)


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 8)])


def take_space(handle: int, num_bytes: int) -> None:
    """Have the system set aside the disk space of a file that has holes; OSError if it is full.

    Where that cannot be asked for (macOS, some file systems), the writing itself meets a full disk.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle, 0, num_bytes)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def give_space_back(handle: int, offset: int, num_bytes: int) -> None:
    """Make a hole in a file, which reads as zeros; OSError where the file system has none."""
    if _fallocate is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if _fallocate(handle, _PUNCH_HOLE | _KEEP_SIZE, offset, num_bytes):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def start_writing(handle: int, offset: int, num_bytes: int) -> None:
    """Have the system begin to write a range to the disk, so that a later fsync is short.

    It only hastens things: where it cannot be done, or fails, the fsync does all and tells.
    """
    if _sync_file_range is not None:
        _sync_file_range(handle, offset, num_bytes, _START_WRITING)


def write_all(handle: int, content: memoryview, offset: int) -> None:
    """Write all of a contiguous buffer of bytes to its place in a file."""
    # For a large piece Linux looks for as large a page to keep it in, and may look for long.
    done = 0
    while done < content.nbytes:
        done += os.pwrite(handle, content[done : done + _PIECE_BYTES], offset + done)
