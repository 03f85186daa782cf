"""Writing to places of a file that is laid out already: its space, its bytes, and when they go."""

from __future__ import annotations

import ctypes
import errno
import os

_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux alone has it
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_PIECE_BYTES = 2**18
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE


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
