from __future__ import annotations

from pathlib import Path

import pytest

from data.places.object_store import RemoteFolder
from tests.support.remote_caches import bucket_in, opened, send_maps
from tests.support.small_caches import random_maps


def test_small_objects_are_asked_for_once_though_their_tags_are_no_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bucket_in(tmp_path / "objects", monkeypatch)
    send_maps(url, tmp_path / "sender", random_maps([(4, 4)] * 20, num_channels=8, seed=0))
    asked: list[str] = []
    get = RemoteFolder.get

    def noting(folder: RemoteFolder, name: str) -> bytes:
        asked.append(name)
        return get(folder, name)

    monkeypatch.setattr(RemoteFolder, "get", noting)
    log = (opened(url, tmp_path / "here") / "commits.jsonl").read_bytes()
    assert "commits/1.json" in asked
    asked.clear()
    copy = opened(url, tmp_path / "here")
    assert set(asked) == {"manifest.json", "commits/plan.json"}, "these say which cache it is"
    assert (copy / "commits.jsonl").read_bytes() == log
    # What changes there, or here, is asked for again.
    RemoteFolder(f"{url}/small").put("commits/1.json", (second := b'{"unit":1,"x":2}\n'))
    (copy / "level_0.zarr" / "zarr.json").write_bytes(b"damaged")
    asked.clear()
    opened(url, tmp_path / "here")
    assert {"commits/1.json", "level_0.zarr/zarr.json"} <= set(asked)
    assert "commits/2.json" not in asked
    assert second in (copy / "commits.jsonl").read_bytes()
    assert (copy / "level_0.zarr" / "zarr.json").read_bytes() != b"damaged"
