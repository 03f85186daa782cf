"""What was the same here and in an object store when it was last compared, kept between commands.

A version of an object (its ETag) and the size and time of a file say whether either has changed
since; neither says so alone, and clocks of two machines do not agree.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import MachineError

_NAME = "copies.sqlite"
_WAIT_S = 60.0
"""For another process that notes something at the same time."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What changes with a file's content, in bytes and nanoseconds."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Known:
    """An object's version, and its copy's state as it was written or sent."""

    version: str
    file: FileState


class KnownFolder(dict[str, Known]):
    """What is known of a folder's objects, by their names in it."""

    def is_as(self, name: str, file: FileState) -> bool:
        """Say whether a file of this state is the one that is there."""
        return name in self and self[name].file == file


class KnownCopies:
    """A table in the folder that holds the copies; for many threads and processes."""

    def __init__(self, folder: Path) -> None:
        """Open the table, made if need be with its folder; MachineError if it cannot be."""
        self._path = folder / _NAME
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(
                self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
            )
            self._table.execute(
                "CREATE TABLE IF NOT EXISTS copies "
                "(url TEXT PRIMARY KEY, version TEXT, size INTEGER, mtime_ns INTEGER)"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._refused(error) from error

    def below(self, url: str) -> KnownFolder:
        """Return what is known of all objects below a URL."""
        rows = self._asked(
            "SELECT url, version, size, mtime_ns FROM copies WHERE url > ? AND url < ?",
            f"{url}/", f"{url}0",  # 0 follows the slash
        )  # fmt: skip
        start = len(url) + 1
        return KnownFolder(
            {found[start:]: Known(version, FileState(*state)) for found, version, *state in rows}
        )

    def note(self, url: str, known: Known) -> None:
        """Note that they are the same now."""
        self._asked(
            "INSERT OR REPLACE INTO copies VALUES (?, ?, ?, ?)",
            url, known.version, known.file.size, known.file.mtime_ns,
        )  # fmt: skip

    def forget(self, url: str) -> None:
        """Note that neither is there any more."""
        self._asked("DELETE FROM copies WHERE url = ?", url)

    def _asked(self, command: str, *values: str | int) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._table.execute(command, values).fetchall()
        except sqlite3.Error as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> MachineError:
        return MachineError(
            f"{self._path}: cannot be read or written ({error}): choose another --local-cache, or "
            "remove the file if it is damaged"
        )
