"""One cache as it lies on the disk: opened once by a command, and handed on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from configs.errors import PassingError
from configs.given_files import regular
from data.cache.commit_log import FILE_NAME as LOG_NAME
from data.cache.commit_log import Commit, fitting, hash_log, read_log
from data.cache.manifest import FILE_NAME, Manifest


class CacheFolder:
    """A split's folder; what is asked of it is read when first asked for, and then kept.

    So it tells of one moment: whoever writes to a cache opens it anew. The manifest of a large
    split, and the log of its commits, take seconds to parse.
    """

    def __init__(self, path: Path | str) -> None:
        """Name the folder; nothing is read yet."""
        self.path = Path(path)
        self._written = _times_written(self.path)

    @classmethod
    def of(cls, cache: CacheFolder | Path | str) -> CacheFolder:
        """Return `cache` itself if somebody has opened it, else a new one of that path."""
        return cache if isinstance(cache, CacheFolder) else cls(cache)

    def up_to_date(self) -> CacheFolder:
        """Return this one, or a new one if the cache was written to since this one was opened.

        For commands that go on for long: an extraction may have replaced the cache meanwhile.
        """
        return self if _times_written(self.path) == self._written else CacheFolder(self.path)

    @cached_property
    def manifest(self) -> Manifest:
        """The whole plan; raises CacheError if there is none, or it is damaged."""
        return Manifest.load(self.path, self._manifest_file)

    @cached_property
    def manifest_sha256(self) -> str | None:
        """Of manifest.json as it lies there, damaged or not; None if there is none."""
        content = self._manifest_file
        return None if content is None else hashlib.sha256(content).hexdigest()

    @property
    def committed_sha256(self) -> str | None:
        """The one that the commits are of, and that the manifest is to have; None: not said."""
        return self._log[0]

    @cached_property
    def commits(self) -> Mapping[int, Commit]:
        """Unit -> what the log says of it, without statistics; empty where there is no log."""
        return self._log[1] and fitting(self._log[1], self.manifest)

    @cached_property
    def content_id(self) -> str:
        """What tells this cache from others with the same plan, too: of other images, or mended."""
        # Of an older manifest the fingerprint is that of its file, and ids were made so.
        with_plan = self.manifest.image_files is None
        with self._reading_log():
            return f"{self.manifest.fingerprint} {hash_log(self.path, with_plan=with_plan)}"

    @cached_property
    def _manifest_file(self) -> bytes | None:
        path = self.path / FILE_NAME
        try:
            return regular(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise PassingError.reading(path, error) from error

    @cached_property
    def _log(self) -> tuple[str | None, Mapping[int, Commit]]:
        with self._reading_log():
            return read_log(self.path, statistics=False)

    @contextmanager
    def _reading_log(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PassingError.reading(self.path / LOG_NAME, error) from error

    def __reduce__(self) -> tuple[type[CacheFolder], tuple[Path]]:
        return CacheFolder, (self.path,)  # another process opens it itself

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


def _times_written(path: Path) -> list[tuple[int, int, int] | None]:
    """Return what changes with manifest or log: inode, size, and nanosecond of the last write."""
    times: list[tuple[int, int, int] | None] = []
    for name in (FILE_NAME, LOG_NAME):
        try:
            found = (path / name).stat()
        except OSError:  # who reads it says what is wrong
            times.append(None)
        else:
            times.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return times
