"""How fast a folder's files are read when they are not in memory yet."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

_READ_BYTES = 64 * 2**20
_LOOKED_AT = 256


def read_bytes_per_s(folder: Path) -> float:
    """Read up to 64 MiB of the largest of some files in the folder; return bytes per second.

    The system is asked to forget that part before; the server of a network disk is not. Raises
    OSError if it cannot be read, ValueError if there is no file.
    """
    files = (path for path in folder.rglob("*") if path.is_file())
    path = max(itertools.islice(files, _LOOKED_AT), key=lambda each: each.stat().st_size)
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(file.fileno(), 0, _READ_BYTES, os.POSIX_FADV_DONTNEED)
        into = memoryview(bytearray(_READ_BYTES))
        num_bytes = 0
        start = time.perf_counter()
        while num_bytes < _READ_BYTES and (count := file.readinto(into[num_bytes:])):
            num_bytes += count
        return num_bytes / (time.perf_counter() - start)
