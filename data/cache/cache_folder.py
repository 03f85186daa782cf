"""One cache as it lies on the disk: opened once by a command, and handed on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from configs.errors import CacheError
from data.cache.commit_log import Commit, hash_log, read_log
from data.cache.manifest import FILE_NAME, Manifest


class CacheFolder:
    """A split's folder; what is asked of it is read when first asked for, and then kept.

    So it tells of one moment: whoever writes to a cache opens it anew. The manifest of a large
    split, and the log of its commits, take seconds to parse.
    """

    def __init__(self, path: Path | str) -> None:
        """Name the folder; nothing is read yet."""
        self.path = Path(path)

    @classmethod
    def of(cls, cache: CacheFolder | Path | str) -> CacheFolder:
        """Return `cache` itself if somebody has opened it, else a new one of that path."""
        return cache if isinstance(cache, CacheFolder) else cls(cache)

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

    @property
    def commits(self) -> Mapping[int, Commit]:
        """Unit -> what the log says of it, without statistics; empty where there is no log."""
        return self._log[1]

    @cached_property
    def content_id(self) -> str:
        """What tells this cache from others with the same plan, too: of other images, or mended."""
        return f"{self.manifest.fingerprint} {hash_log(self.path)}"

    @cached_property
    def _manifest_file(self) -> bytes | None:
        path = self.path / FILE_NAME
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CacheError(f"{path}: cannot be read ({error.strerror or error})") from error

    @cached_property
    def _log(self) -> tuple[str | None, Mapping[int, Commit]]:
        return read_log(self.path, statistics=False)

    def __reduce__(self) -> tuple[type[CacheFolder], tuple[Path]]:
        return CacheFolder, (self.path,)  # another process opens it itself

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)
