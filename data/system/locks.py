"""Locks between processes: a file that one of them holds; the system lets go of it for the dead.

The name of a lock may be taken from it while somebody waits (by who was done with it, or by a user
who cleans up), and then leads to another file: who gets a lock makes sure that he holds the one
that others will ask for.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def open_locked(path: Path, *, flags: int = 0, waiting: Callable[[], None] | None = None) -> int:
    """Open a file for reading and writing, made if need be, and return its handle, locked.

    `waiting` is called before a lock that somebody has is waited for; without, that raises
    BlockingIOError. Raises OSError, with the file's name, if it cannot be opened, is a link, or has
    no locks.
    """
    while True:
        handle = _opened(path, flags)
        try:
            _lock(handle, path, waiting)
            if _is_named(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _opened(path: Path, flags: int) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        reason = "is a link, and nothing is written through one: remove it"
        raise OSError(error.errno, reason, str(path)) from error


@contextmanager
def held(path: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock whose file is there only meanwhile; raises as `open_locked`."""
    handle = open_locked(path, waiting=waiting)
    try:
        yield
    finally:
        # While it is held: whoever waits for it notices, and makes a new one.
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def lock_range(handle: int, path: Path, offset: int, num_bytes: int) -> None:
    """Lock a part of an open file, and wait for it; it is let go of with any handle of the file.

    Raises OSError, with the file's name, if it has no locks.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX, num_bytes, offset)
    except OSError as error:
        raise _no_locks(path, error) from error


@contextmanager
def range_held(handle: int, path: Path, offset: int, num_bytes: int) -> Iterator[None]:
    """Hold a lock on a part of an open file meanwhile; raises as `lock_range`."""
    lock_range(handle, path, offset, num_bytes)
    try:
        yield
    finally:
        fcntl.lockf(handle, fcntl.LOCK_UN, num_bytes, offset)


def _lock(handle: int, path: Path, waiting: Callable[[], None] | None) -> None:
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                raise
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, error.strerror, str(path)) from None
    except OSError as error:
        raise _no_locks(path, error) from error


def _no_locks(path: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"the file system has no locks: {error.strerror}", str(path))


def _is_named(path: Path, handle: int) -> bool:
    """Say whether `path` still leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
