"""Files that appear whole or not at all, and what of them survives a power cut."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux alone has it
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE


_LEFT = re.compile(r"\.[0-9a-f]{12}\.part$")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that it appears whole or not at all, and survives a power cut.

    Several may write one path at once: each does so under a name of its own, and the last one
    stays. What a killed process leaves, `remove_leftovers` removes.
    """
    file, part = _locked_part(path)
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _locked_part(path: Path) -> tuple[BinaryIO, Path]:
    while True:
        part = path.with_name(f"{path.name}.{secrets.token_hex(6)}.part")
        file = part.open("xb")
        with suppress(OSError):  # where there are no locks leftovers stay
            fcntl.flock(file, fcntl.LOCK_EX)
        if part.exists():
            return file, part
        file.close()  # who removes leftovers came before the lock


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed in `write_atomically` left in a folder, if anything.

    A file that somebody is writing is locked, and stays; so does all that cannot be removed.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if _LEFT.search(entry.name)]:
            with suppress(OSError), (folder / name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()


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


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def start_writing(handle: int, offset: int, num_bytes: int) -> None:
    """Have the system begin to write a range to the disk, so that a later fsync is short.

    It only hastens things: where it cannot be done, or fails, the fsync does all and tells.
    """
    if _sync_file_range is not None:
        _sync_file_range(handle, offset, num_bytes, _START_WRITING)
