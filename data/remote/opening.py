"""From what --features says to a folder of caches on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from configs.errors import CacheError, ConfigError
from configs.known_places import call_it
from configs.options import FeaturesPlace
from data.places.local_copies import LocalCopies, copies_in
from data.places.object_store import RemoteFolder, is_url
from data.remote.local_copy import LocalCopy
from data.remote.local_room import LocalRoom


def features_root(
    place: FeaturesPlace, usual: Path, splits: Iterable[str], *, writing: bool = False
) -> Path:
    """Return the folder of the splits' caches; for a URL, the one that stands for it.

    What is small of them is brought up to date then. Those that are read have to be there:
    CacheError; others beside them are opened, too. One line for the user where the store refuses.
    """
    if place.given is None or not is_url(place.given):
        if place.given is not None and "://" in place.given:
            raise ConfigError(
                f"--features {place.given}: use s3://, gs:// or az://, or a folder's path"
            )
        return Path(place.given or usual)
    folder = copies_in(place.local_cache).folder
    room = LocalRoom(folder.absolute(), int(place.local_cache_gb * 1e9))
    room.require_holes()
    return open_copies(place.given, splits, room, writing=writing)


def open_copies(url: str, splits: Iterable[str], room: LocalRoom, *, writing: bool = False) -> Path:
    """Return the local folder that stands for the caches' folder at a URL, as `features_root`."""
    remote = RemoteFolder(url)
    root = LocalCopies(room.folder).path_of(remote.url)
    call_it(root, remote.url)
    named = list(dict.fromkeys(splits))
    for split in [*named, *(name for name in remote.folders() if name not in named)]:
        copy = LocalCopy(root / split, remote / split, room)
        with copy.alone():
            copy.mark()
            there = copy.fetch()
        if not there and split in named and not writing:
            raise CacheError(
                f"{copy.remote}: no cache of the split {split!r}: run extract-features first"
            )
    return root
