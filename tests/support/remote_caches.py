"""Small caches in the tests' object store, and folders of this machine that stand for them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from configs.schema.data import Container
from data.cache.manifest import Manifest
from data.places.object_store import RemoteFolder
from data.remote.local_room import LocalRoom
from data.remote.opening import open_copies
from data.remote.sending import sending
from tests.support.small_caches import write_maps


def bucket_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have all URLs lead below a folder; return that of an empty bucket. Tags are no checksums."""
    stores = pytest.importorskip("obstore.store", reason="needs the extra [remote]")

    def opened_store(remote: RemoteFolder, _: float) -> object:
        return stores.LocalStore(folder / remote.url.replace("://", "/"), mkdir=True)

    monkeypatch.setattr(RemoteFolder, "_opened", opened_store)
    return "s3://bucket"


def opened(url: str, folder: Path, *, max_bytes: int = 10**9, writing: bool = False) -> Path:
    """Return the folder that stands for the split `small` of a URL on a machine's disk."""
    room = LocalRoom(folder, max_bytes)
    return open_copies(url, ["small"], room, writing=writing) / "small"


def send_maps(
    url: str, folder: Path, maps: Sequence[NDArray[Any]], container: Container = "zarr"
) -> Path:
    """Write maps as `write_maps` and send them; return the folder that stands for the cache."""
    copy = write_maps(opened(url, folder, writing=True), maps, container=container)
    with sending(copy, Manifest.load(copy)):
        pass
    return copy


def send_caches(root: Path, url: str, folder: Path) -> None:
    """Send the caches of a study's splits, by a machine that is gone afterwards."""
    for split in ("train", "val"):
        copy = open_copies(url, [split], LocalRoom(folder, 10**9), writing=True) / split
        shutil.copytree(root / split, copy, dirs_exist_ok=True)
        with sending(copy, Manifest.load(copy)):
            pass
    shutil.rmtree(folder)


def num_bytes_held(copy: Path) -> int:
    """What a copy takes of the disk, its small files included."""
    return sum(path.stat().st_blocks * 512 for path in copy.rglob("*") if path.is_file())
