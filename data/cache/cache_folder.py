"""One cache as it lies on the disk: opened once by a command, and handed on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from data.cache.commit_log import Commit, hash_log, read_commits
from data.cache.manifest import Manifest


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
        return Manifest.load(self.path)

    @cached_property
    def commits(self) -> Mapping[int, Commit]:
        """Unit -> what the log says of it, without statistics; empty where there is no log."""
        return read_commits(self.path, statistics=False)

    @cached_property
    def content_id(self) -> str:
        """What tells this cache from others with the same plan, too: of other images, or mended."""
        return f"{self.manifest.fingerprint} {hash_log(self.path)}"

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)
