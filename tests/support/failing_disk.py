"""A disk that takes no more at a chosen file, at a chosen moment: no root, no mount, no waiting.

What Python's own files, the calls of `os` and renames do with the file fails as it does on a full
disk: a write leaves the half of what it was given. Other files are written as always.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import pytest

from configs.errors import UserError

Moment = Literal["open", "write", "sync", "rename"]
MOMENTS: tuple[Moment, ...] = ("open", "write", "sync", "rename")
FULL = os.strerror(errno.ENOSPC)


class FailingDisk:
    """Fails for files whose name matches `pattern`; `met` counts how often somebody met it."""

    def __init__(self, pattern: str, moment: Moment, number: int = errno.ENOSPC) -> None:
        self.met = 0
        self._pattern = pattern
        self._moment = moment
        self._number = number

    def fails(self, file: Any, moment: Moment) -> bool:
        """Say whether this is the file and the moment; `file` is a path or a handle."""
        if moment != self._moment:
            return False
        path = Path("/proc/self/fd", str(file)).readlink() if isinstance(file, int) else file
        return fnmatch(Path(os.fsdecode(path)).name, self._pattern)

    def fail(self, *names: Any) -> None:
        """Raise the error."""
        self.met += 1
        raise OSError(self._number, os.strerror(self._number), *names)


class _FullFile(io.FileIO):
    """Takes the half of the first write, and nothing afterwards."""

    def __init__(self, disk: FailingDisk, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self._disk = disk
        self._is_full = False

    def write(self, content: Any) -> int:
        if self._is_full:
            self._disk.fail()
        self._is_full = True
        self._disk.met += 1
        return super().write(memoryview(content).cast("B")[: len(content) // 2])


@contextmanager
def failing_disk(pattern: str, moment: Moment, number: int = errno.ENOSPC) -> Iterator[FailingDisk]:
    """Have a disk fail for files of a name, such as `last_model.pth*`, while this is entered."""
    disk, full_handles = FailingDisk(pattern, moment, number), set()

    def opened(real: Callable[..., Any]) -> Callable[..., Any]:
        def open_file(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            writes = not isinstance(file, int) and set(mode) & set("wxa")
            if writes and disk.fails(file, "open"):
                disk.fail(os.fspath(file))
            if not (writes and disk.fails(file, "write")):
                return real(file, mode, *rest, **more)
            buffer = io.BufferedWriter(_FullFile(disk, file, mode.replace("b", "")))
            if "b" in mode:
                return buffer
            return io.TextIOWrapper(buffer, encoding="utf-8", newline=more.get("newline"))

        return open_file

    def open_handle(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and disk.fails(path, "open"):
            disk.fail(os.fspath(path))
        return real_open(path, flags, *rest, **more)

    def written(real: Callable[..., int]) -> Callable[..., int]:
        def write(handle: int, content: Any, *rest: Any) -> int:
            if not disk.fails(handle, "write"):
                return real(handle, content, *rest)
            if handle in full_handles:
                disk.fail()
            full_handles.add(handle)
            disk.met += 1
            return real(handle, memoryview(content)[: len(content) // 2], *rest)

        return write

    def sync(handle: int) -> None:
        if disk.fails(handle, "sync"):
            disk.fail()
        real_sync(handle)

    def renamed(real: Callable[..., Any]) -> Callable[..., Any]:
        def rename(source: Any, target: Any) -> Any:
            if disk.fails(source, "rename"):
                disk.fail(os.fspath(source), None, os.fspath(target))
            return real(source, target)

        return rename

    real_open, real_sync, open_any = os.open, os.fsync, opened(builtins.open)
    with pytest.MonkeyPatch.context() as patched:
        for place in (builtins, io):
            patched.setattr(place, "open", open_any)
        patched.setattr(Path, "open", opened(Path.open))  # of Python 3.10: it knows its own
        patched.setattr(os, "open", open_handle)
        for name in ("write", "pwrite"):
            patched.setattr(os, name, written(getattr(os, name)))
        patched.setattr(os, "fsync", sync)
        patched.setattr(os, "replace", renamed(os.replace))
        patched.setattr(Path, "replace", renamed(Path.replace))
        yield disk


def meets(
    pattern: str, moment: Moment, work: Callable[[], object], kind: type[UserError] = UserError,
    *, number: int = errno.ENOSPC,
) -> str:  # fmt: skip
    """The line with which the work ends that meets a full disk at this file and moment."""
    with failing_disk(pattern, moment, number) as disk, pytest.raises(kind) as caught:
        work()
    assert disk.met, f"nobody met {pattern} at {moment}"
    line = str(caught.value)
    assert os.strerror(number) in line
    assert "\n" not in line
    return line


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def temporary(folder: Path) -> list[str]:
    """What only an interrupted writer of small files leaves; parts of shards are taken up again."""
    return [path.name for path in folder.rglob("*") if re.search(r"\.[0-9a-f]{12}\.", path.name)]


@contextmanager
def slow_disk(seconds: float) -> Iterator[list[float]]:
    """Have each write of a sample, each sync and each rename take so long; gives the waits."""
    waits: list[float] = []

    def slowed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            waits.append(seconds)
            time.sleep(seconds)
            return real(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patched:
        for name in ("pwrite", "fsync"):
            patched.setattr(os, name, slowed(getattr(os, name)))
        patched.setattr(Path, "replace", slowed(Path.replace))
        yield waits
