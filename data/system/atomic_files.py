"""Files that appear whole or not at all, and what of them survives a power cut."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux alone has it
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that it appears whole or not at all, and survives a power cut."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def encoded(text: str) -> bytes:
    """Return text as UTF-8; names in it that are none, as on many a disk, with `\\udcff`."""
    return text.encode("utf-8", "backslashreplace")


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
