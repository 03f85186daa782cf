"""One process at a time holds a lock, whatever becomes of the file that is the lock."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from data.cache.commit_log import CommitLog
from data.system.locks import held, open_locked, range_held
from tests.support.forked import result_of


def test_lock_that_somebody_holds_is_refused_or_waited_for(tmp_path: Path) -> None:
    path, waited = tmp_path / "lock", threading.Event()
    with held(path):
        with pytest.raises(BlockingIOError), held(path):
            pass
        waiter = threading.Thread(target=lambda: os.close(open_locked(path, waiting=waited.set)))
        waiter.start()
        assert waited.wait(10)
        assert waiter.is_alive()
    waiter.join(10)
    assert not waiter.is_alive()


def test_lock_is_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), held(tmp_path / "lock"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_who_waited_for_a_lock_that_was_removed_holds_the_one_that_others_ask_for(
    tmp_path: Path,
) -> None:
    """Else two would hold it: the one that waited, and the next that comes."""
    path = tmp_path / "lock"
    first = held(path)
    first.__enter__()
    handle = open_locked(path, waiting=lambda: first.__exit__(None, None, None))
    with pytest.raises(BlockingIOError), held(path):
        pass
    os.close(handle)
    with held(path):
        pass


def test_log_of_a_cache_that_was_removed_while_it_was_waited_for_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commits would go into a file that nobody finds again."""
    path = tmp_path / "commits.jsonl"
    with CommitLog(tmp_path):
        flock = fcntl.flock

        def removed_first(handle: int, kind: int) -> None:
            if not kind & fcntl.LOCK_NB:
                path.unlink()
                return
            flock(handle, kind)

        monkeypatch.setattr(fcntl, "flock", removed_first)
        with CommitLog(tmp_path) as log:
            log.name_plan("a plan")
    assert b"a plan" in path.read_bytes()


def test_file_system_without_locks_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="the file system has no locks: No locks available"):
        open_locked(tmp_path / "lock")


def free_places(path: Path, offsets: range) -> list[int]:
    free = []
    with path.open("r+b") as file:
        for offset in offsets:
            with suppress(BlockingIOError):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
                free.append(offset)
    return free


def test_part_of_a_file_is_locked_meanwhile_and_no_other_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    with path.open("r+b") as file:
        with range_held(file.fileno(), path, 4, 2):
            assert result_of(free_places, path, range(3, 7)) == [3, 6]
        assert result_of(free_places, path, range(3, 7)) == [3, 4, 5, 6]
