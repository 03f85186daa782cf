"""Where copies of what lies at URLs lie on this machine: below one folder, as the URLs say.

So a path relative to another copy leads where it leads in the store.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from configs.errors import ConfigError
from data.places.known_copies import KnownCopies
from data.places.mirrored_folder import MirroredFolder
from data.places.object_store import RemoteFolder, is_url

_LOG = logging.getLogger(__name__)

_SCHEMES = ("s3", "gs", "az")


def usual_folder() -> Path:
    """Return the folder for copies where none is named: the user's own for what can be lost."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "fpn-feature-codecs"


def beside(place: Path | str, name: str) -> Path | str:
    """Return what lies beside a folder; of a whole bucket, in it."""
    if not is_url(place):
        return Path(place).parent / name
    folder = str(place).rpartition("/")[0]
    return f"{folder if is_url(folder) else place}/{name}"


class PlaceType(click.Path):
    """An option's folder or file: a Path, or a URL in an object store, which stays text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the URL without a slash at its end; else as click.Path does."""
        if is_url(value):
            return value.rstrip("/")
        if isinstance(value, str) and "://" in value:
            self.fail(f"{value!r}: use s3://, gs:// or az://, or a folder's path", param, ctx)
        return super().convert(value, param, ctx)


@dataclass(frozen=True, slots=True)
class LocalCopies:
    """The folder that holds them."""

    folder: Path = field(default_factory=usual_folder)

    def path_of(self, url: str) -> Path:
        """Return where the copy of a URL lies; ConfigError if it names no bucket."""
        scheme, _, rest = url.partition("://")
        parts = rest.rstrip("/").split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise ConfigError(f"{url}: is no URL of a bucket and names in it: correct it")
        return self.folder.absolute() / scheme / Path(*parts)

    def url_of(self, path: Path) -> str | None:
        """Return the URL of which a path is the copy's, None of any other path."""
        path = Path(os.path.normpath(path.absolute()))
        if not path.is_relative_to(self.folder.absolute()):
            return None
        scheme, *parts = path.relative_to(self.folder.absolute()).parts or ("",)
        return f"{scheme}://{'/'.join(parts)}" if scheme in _SCHEMES and parts else None

    def mirror(
        self, url: str, *,
        in_order: Sequence[str] = (), at_end: Sequence[str] = (), left_out: Sequence[str] = (),
    ) -> MirroredFolder:  # fmt: skip
        """Return the folder at a URL with its copy; arguments as of `MirroredFolder`."""
        return MirroredFolder(
            RemoteFolder(url), self.path_of(url), KnownCopies(self.folder),
            in_order=in_order, at_end=at_end, left_out=left_out,
        )  # fmt: skip

    def fetched(self, place: Path | str) -> Path:
        """Return a folder, of a URL the copy, with all that is there."""
        if not is_url(place):
            return Path(place)
        mirror = self.mirror(str(place))
        mirror.fetch()
        return mirror.path

    def fetched_file(self, place: Path | str) -> Path:
        """Return a file, of a URL the copy; ConfigError if there is none at the URL."""
        if not is_url(place):
            return Path(place)
        folder, _, name = str(place).rpartition("/")
        self.path_of(folder)
        return self.mirror(folder).fetch_file(name)

    @contextmanager
    def written(
        self, place: Path | str, *, at_end: Sequence[str] = (), unchanging: bool = False
    ) -> Iterator[Path]:
        """Give a folder to write in, of a URL the copy, which is fetched first and sent.

        What was there and is removed in the meantime is removed there, too. `at_end`: as of
        `MirroredFolder`; `unchanging`: files never change under their name.
        """
        if not is_url(place):
            yield Path(place)
            return
        mirror = self.mirror(str(place), at_end=at_end)
        if unchanging:
            mirror.fetch_lacking()
        else:
            mirror.fetch()
        _LOG.info("%s: is written in %s, and sent", place, mirror.path)
        with mirror.sending():
            yield mirror.path
        mirror.remove_gone()

    def shown(self, path: Path) -> str:
        """Return what to tell a user of a path: its URL, if there is one."""
        return self.url_of(path) or str(path)


def copies_in(folder: str | None) -> LocalCopies:
    """Return where `--local-cache` says that copies lie; None: the usual folder."""
    return LocalCopies(Path(folder)) if folder else LocalCopies()
