"""An index that somebody else wrote: what it names is checked before anything is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analyze.streams.streams_index import FILE_NAME, load_index
from configs.errors import CacheError
from data.cache.annotations import ANNOTATIONS_NAME
from data.cache.manifest import Manifest
from tests.analyze.streams.conftest import Sent
from tests.support.coded_study import decompress
from tests.support.extraction import error_of, fingerprints


def forged(streams: Path, folder: Path, **changes: Any) -> Path:
    """A folder with the index of `streams`, in which the manifest says something else."""
    index = json.loads((streams / FILE_NAME).read_text())
    manifest = replace(Manifest.from_json(index["manifest"]), **changes)
    index["manifest"] = json.loads(manifest.to_json())
    index["cache_fingerprint"] = manifest.fingerprint
    folder.mkdir()
    shutil.copytree(streams / "images", folder / "images")
    for how in index["levels"].values():
        if "run" in how:
            how["run"] = str((streams / how["run"]).resolve())
    (folder / FILE_NAME).write_text(json.dumps(index))
    return folder


def test_forged_split_writes_nothing_outside_the_folder_asked_for(
    sent: Sent, tmp_path: Path
) -> None:
    # With the very manifest that would be written there, the cache is not even of another plan.
    victim = tmp_path / "victim"
    shutil.copytree(sent.decoded / "val", victim)
    (victim / ANNOTATIONS_NAME).write_text("{}")
    before = fingerprints(tmp_path)
    streams = forged(sent.streams, tmp_path / "streams", split="../victim")
    refused = error_of(decompress(streams, tmp_path / "out"))
    assert "streams.json: is damaged (split: " in refused
    shutil.rmtree(streams)
    assert fingerprints(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["split", "dataset"])
@pytest.mark.parametrize("name", ["..", "", "a/b", "/etc", "a\0b"], ids=ascii)
def test_name_in_a_received_index_is_one_component_of_a_path(
    sent: Sent, tmp_path: Path, key: str, name: str
) -> None:
    with pytest.raises(CacheError, match=rf"is damaged \({key}: "):
        load_index(forged(sent.streams, tmp_path / "streams", **{key: name}))


def test_image_id_in_a_received_index_is_a_number(sent: Sent, tmp_path: Path) -> None:
    first, *others = Manifest.load(sent.study.val_cache).samples
    path: Any = "../../x"
    samples = (replace(first, image_id=path), *others)
    with pytest.raises(CacheError, match=r"is damaged \(samples\.0\.image_id: "):
        load_index(forged(sent.streams, tmp_path / "streams", samples=samples))
