"""A file appears whole or not at all, whoever else writes it, and nothing is left of who dies."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from data.system.atomic_files import remove_leftovers, write_atomically


def test_two_writers_of_one_path_leave_one_of_their_files_whole(tmp_path: Path) -> None:
    path, errors, torn = tmp_path / "file", [], []
    contents = [bytes([number]) * 5000 for number in range(2)]
    path.write_bytes(contents[0])
    done = threading.Event()

    def write(content: bytes) -> None:
        for _ in range(60):
            try:
                write_atomically(path, content)
            except OSError as error:
                errors.append(error)

    def read() -> None:
        while not done.is_set():
            if (found := path.read_bytes()) not in contents:
                torn.append(found)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    reader = threading.Thread(target=read)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert (errors, torn) == ([], [])
    assert list(tmp_path.iterdir()) == [path]


def killed_while_writing(path: Path) -> Path:
    """What a process leaves that dies in `write_atomically`, before the rename."""
    before = set(path.parent.iterdir())
    script = """
import os, sys
from pathlib import Path
from data.system.atomic_files import write_atomically
os.replace = os.rename = Path.replace = Path.rename = lambda *_, **__: os._exit(9)
write_atomically(Path(sys.argv[1]), b"new")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", script, path], env=environment)
    assert process.returncode == 9
    (left,) = set(path.parent.iterdir()) - before
    return left


def test_what_a_killed_writer_leaves_is_removed_and_nothing_else(tmp_path: Path) -> None:
    others = ["c.0.0.0.part", "shard-00000.h5.part", "run.json.part", "a.0123456789ab.partly"]
    for name in others:
        (tmp_path / name).write_bytes(b"of somebody else")
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    left = killed_while_writing(path)
    assert left.read_bytes() == b"new"
    remove_leftovers(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([*others, "run.json"])
    assert path.read_bytes() == b"old"
    remove_leftovers(tmp_path / "is not there")


def test_file_that_is_being_written_is_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def tidied(handle: int) -> None:
        remove_leftovers(tmp_path)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", tidied)
    write_atomically(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_writer_whose_file_is_removed_before_it_is_locked_takes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = []

    def late(*_: object) -> None:
        if not locks:
            next(tmp_path.glob("*.part")).unlink()
        locks.append(1)

    monkeypatch.setattr("data.system.atomic_files.fcntl.flock", late)
    write_atomically(tmp_path / "file", b"whole")
    assert len(locks) == 2
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
