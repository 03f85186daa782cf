"""A folder of this machine that stands for a split's cache in an object store.

`remote.json` in it says for which, and how much the copies may hold. Small files are copied whole
whenever a command opens it. Of the commit log there is an object for each unit, as nothing can be
appended to one: they are listed and merged into the log that a local cache has.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import xxhash

from configs.errors import CacheError
from configs.given_files import inside
from configs.plain_json import parse_json
from data.cache.commit_log import FILE_NAME as LOG_NAME
from data.cache.containers import STORES
from data.cache.manifest import FILE_NAME as MANIFEST_NAME
from data.cache.manifest import Manifest
from data.places.local_disk import disk_told
from data.places.object_store import RemoteFolder, is_tag_of
from data.remote.local_room import LocalRoom
from data.system.atomic_files import write_atomically
from data.system.locks import open_locked

log = logging.getLogger(__name__)

_MARK = "remote.json"
_LOCK = "opening.lock"
_TAGS = "tags.json"
COMMITS = "commits"
PLAN_NAME = f"{COMMITS}/plan.json"
"""The object that has the line which names the manifest; the others are of units."""
_LINE = re.compile(rb'\{"(?:plan":|unit":([0-9]+),)')
# What of a cache is copied whole; nothing else that a stranger may have put there is.
_SMALL = re.compile(
    r"level_[0-9]+\.zarr/([^/]+/)?(zarr\.json|c\.0)$|level_[0-9]+/README\.txt$|"
    r"statistics_level_[0-9]+\.json$|annotations[^/]*$|manifest\.json$"
)
_AT_ONCE = 32  # requests

Key = tuple[int, int, int]
"""Of a shard: (level, bucket, shard)."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class LocalCopy:
    """The folder, what it stands for, and the room that its samples may take."""

    folder: Path
    remote: RemoteFolder
    room: LocalRoom

    @classmethod
    def at(cls, folder: Path) -> LocalCopy | None:
        """Return what a folder is a copy of; None for a cache that lies here itself."""
        try:
            said = parse_json((folder / _MARK).read_bytes())
        except FileNotFoundError:
            return None
        room = LocalRoom(Path(said["local_cache"]), int(said["max_bytes"]))
        return cls(folder, RemoteFolder(said["url"]), room)

    def mark(self) -> None:
        """Say in the folder what it stands for."""
        said = {
            "url": self.remote.url,
            "local_cache": str(self.room.folder),
            "max_bytes": self.room.max_bytes,
        }
        _write_if_other(self.folder / _MARK, json.dumps(said, indent=1).encode() + b"\n")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process that changes which files there are.

        Raises MachineError for what the disk refuses meanwhile.
        """
        with disk_told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = open_locked(self.folder / _LOCK, waiting=lambda: None)
            try:
                yield
            finally:
                os.close(handle)

    def fetch(self) -> bool:
        """Bring what is small up to date; False if there is no manifest: then there is nothing."""
        names = self.remote.versions()
        if MANIFEST_NAME not in names:
            return False
        manifest_file = self.remote.get(MANIFEST_NAME)
        self._leave_other_plan(names)
        self._write(MANIFEST_NAME, manifest_file)
        small = [name for name in names if _SMALL.match(name) and name != MANIFEST_NAME]
        own = {name: path.read_bytes() for name in small if (path := self._path(name)).is_file()}
        for name, content in self._current(small, names, own).items():
            self._write(name, content)
        self._merge({name: x for name, x in names.items() if name.startswith(f"{COMMITS}/")})
        return True

    def name_of(self, path: Path) -> str:
        """Return the object's name that a file of the copy has."""
        return path.relative_to(self.folder).as_posix()

    def small_files(self) -> list[Path]:
        """Return the files here that are sent and fetched whole."""
        paths = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return [path for path in paths if _SMALL.match(self.name_of(path))]

    def log_lines(self) -> dict[str, bytes]:
        """Return the lines of the log here by the name of the object that they make."""
        lines: dict[str, bytes] = {}
        with suppress(FileNotFoundError), (self.folder / LOG_NAME).open("rb") as file:
            for line in file:
                if line.endswith(b"\n") and (found := _LINE.match(line)):
                    name = f"{COMMITS}/{found[1].decode()}.json" if found[1] else PLAN_NAME
                    lines[name] = lines.get(name, b"") + line
        return lines

    def _leave_other_plan(self, names: Iterable[str]) -> None:
        """Remove what the copy holds of another plan than the one that is there now."""
        own = self.log_lines().get(PLAN_NAME)
        if own is None or (PLAN_NAME in names and self.remote.get(PLAN_NAME) == own):
            return
        log.info("%s: holds another cache now than when it was opened last", self.remote)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in (_MARK, _LOCK):
                path.unlink()

    def _current(
        self, wanted: Iterable[str], versions: Mapping[str, tuple[int, str]],
        own: Mapping[str, bytes],
    ) -> dict[str, bytes]:  # fmt: skip
        """Return what objects hold now; what is here already is not asked for again."""
        names = list(wanted)
        tags, noted = {name: versions[name][1] for name in names}, self._noted_tags()

        def is_as_here(name: str, here: bytes) -> bool:
            return is_tag_of(tags[name], here) or noted.get(name) == _pair(tags[name], here)

        known = {name: own[name] for name in names if name in own and is_as_here(name, own[name])}
        lacking = [name for name in names if name not in known]
        found = dict(zip(lacking, at_once(self.remote.get, lacking), strict=True))
        # Where a tag is no checksum (Azure's, and S3's of what a key encrypts) nothing else tells.
        new = {n: _pair(tags[n], x) for n, x in found.items() if _tells(tags[n], x)}
        if new:
            _write_if_other(self.folder / _TAGS, json.dumps(noted | new).encode())
        return {name: known.get(name, found.get(name, b"")) for name in names}

    def _noted_tags(self) -> dict[str, list[str]]:
        """Return name -> [tag, checksum of what the object held under it]."""
        try:
            return dict(parse_json((self.folder / _TAGS).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return {}

    def _merge(self, commits: Mapping[str, tuple[int, str]]) -> None:
        """Make the log of the units that are there; those that are still to be sent stay in it."""
        own = self.log_lines()
        found = own | self._current(commits, commits, own)
        merged = b"".join(found[name] for name in sorted(found, key=_order))
        try:
            os.close(open_locked(self.folder / LOG_NAME))
        except BlockingIOError:
            return  # an extraction writes here, and knows more
        _write_if_other(self.folder / LOG_NAME, merged)

    def _path(self, name: str) -> Path:
        try:
            return inside(self.folder, name)
        except ValueError as error:
            raise CacheError(f"{self.remote}: {error}: it was not written by us") from error

    def _write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_if_other(path, content)


def shard_file(folder: Path, manifest: Manifest, key: Key) -> Path:
    """Return the file of a shard."""
    return STORES[manifest.container].shard_path(folder, manifest, *key)


def at_once(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return what a function that waits for the store gives for each item, many under way."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, items))


def _tells(tag: str, content: bytes) -> bool:
    """Say whether a tag is worth noting: it is one, and no checksum of the content."""
    return bool(tag.strip('"')) and not is_tag_of(tag, content)


def _pair(tag: str, content: bytes) -> list[str]:
    return [tag, xxhash.xxh3_128_hexdigest(content)]


def _order(name: str) -> int:
    stem = name.rpartition("/")[2].removesuffix(".json")
    return int(stem) if stem.isdecimal() else -1


def _write_if_other(path: Path, content: bytes) -> None:
    """Write a file unless it has this content: who has it open sees by its times whether it has."""
    try:
        same = path.read_bytes() == content
    except FileNotFoundError:
        same = False
    if not same:
        write_atomically(path, content)
