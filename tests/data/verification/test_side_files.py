"""Damage in manifest, commit log, statistics and annotations is found, and mended alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from configs.errors import CacheError
from data.cache.annotations import read_annotations, write_annotations
from tests.support.damaged_caches import (
    extract,
)
from tests.support.extraction import TinyCache, error_of, shard_bytes


@pytest.mark.parametrize(
    ("name", "place"),
    [("statistics_level_1.json", 40), ("commits.jsonl", 40), ("commits.jsonl", 200)],
)
def test_changed_byte_in_a_side_file_is_found_and_mended(
    copied: TinyCache, name: str, place: int
) -> None:
    before = shard_bytes(copied.folder)
    path = copied.folder / name
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    result = extract(copied, "--verify")
    assert result.exit_code == 1
    assert str(path) in result.output
    assert extract(copied).exit_code == 0
    assert extract(copied, "--verify").exit_code == 0
    assert shard_bytes(copied.folder) == before


@pytest.mark.parametrize("place", [0.0, 0.1, 0.35, 0.6, 0.85, None])
def test_damaged_manifest_is_found_and_mended_and_nothing_is_computed_again(
    copied: TinyCache, place: float | None
) -> None:
    path = copied.folder / "manifest.json"
    whole = path.read_bytes()
    if place is None:
        path.unlink()
    else:
        at = int(place * len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert "manifest.json: is " in extract(copied, "--verify").output
    result = extract(copied)
    assert result.exit_code == 0, result.output
    assert "images are in" in result.output
    assert path.read_bytes() == whole
    assert extract(copied, "--verify").exit_code == 0


def test_damaged_manifest_of_another_plan_is_refused_and_kept(copied: TinyCache) -> None:
    path = copied.folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-10])
    damaged = path.read_bytes()
    error = error_of(extract(copied, "--dtype", "float32"))
    assert error.startswith(f"{path}: is damaged (")
    assert error.endswith("run extract-features with the settings that it was made with, or with "
                          "--overwrite")  # fmt: skip
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("change", ["digit", "delete", "others"])
def test_damaged_annotations_are_found_and_mended(copied: TinyCache, change: str) -> None:
    path = copied.folder / "annotations.json"
    whole = path.read_bytes()
    if change == "delete":
        path.unlink()
    elif change == "others":
        images = read_annotations(path, "train")
        write_annotations(path, replace(images, records=images.records[1:]))
    else:
        at = whole.index(b'"bbox": [') + len(b'"bbox": [')
        path.write_bytes(
            whole[:at] + (b"1" if whole[at : at + 1] != b"1" else b"2") + whole[at + 1 :]
        )
        with pytest.raises(CacheError, match=r"annotations\.json: damaged \(.*checksum differs"):
            read_annotations(path, "train")
    assert f"{path}: " in extract(copied, "--verify").output
    assert extract(copied).exit_code == 0
    assert path.read_bytes() == whole
    assert extract(copied, "--verify").exit_code == 0
