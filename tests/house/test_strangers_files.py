"""What SECURITY.md promises of files that a stranger made, a test for each promise."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
import torch
import xxhash
from click.testing import CliRunner

from analyze.cli import analyze_levels
from analyze.facts.kept_results import Kept
from analyze.streams.streams_index import load_index
from analyze.streams_cli import compress_features
from configs.config_files import check_config
from configs.errors import BadImageError, CacheError, ConfigError, UserError
from data.cache import hdf5_container
from data.cache.commit_log import FILE_NAME as LOG_NAME
from data.cache.commit_log import CommitLog
from data.cache.manifest import Manifest
from data.images.files import Listed, decode_rgb, find_image, read_header
from data.reading.level_reader import LevelReader
from extract.detector.weights import read_checkpoint
from extract.finetuning.finetune import _read_last
from tests.support.datasets import load, save_image
from tests.support.extraction import TinyCache
from tests.support.pages import ROOT
from tests.support.tiny_codecs import PROVENANCE, tiny_codec, tiny_model
from train.cli import train_level
from train.runs.checkpoint import encode_checkpoint, load_codec, load_last
from train.runs.checkpoint_file import sealed

EVIL = "from pathlib import Path\nPath('mark').touch()\n"


class Harm:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("mark",)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with modules that leave a mark when they are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "evils").mkdir()
    (tmp_path / "evils/__init__.py").write_text(EVIL)
    return tmp_path


def is_untouched() -> bool:
    return not Path("mark").exists()


def saved(content: object, *, as_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=as_zip)
    return buffer.getvalue()


def naming(name: str) -> bytes:
    """A whole checkpoint, but that its configuration names code."""
    model = tiny_model().model_dump(mode="json") | {"name": name}
    return encode_checkpoint(
        tiny_codec().state_dict(), check_config({"model": model}, "test"), PROVENANCE,
        levels=(0,), epoch=1, best_validation_loss=1.0,
    )  # fmt: skip


def test_no_pickle_runs_code(here: Path) -> None:
    files = {
        "zip": saved({"model_state_dict": {}, "x": Harm()}),
        "old": saved({"model_state_dict": {}, "x": Harm()}, as_zip=False),
        "bare": pickle.dumps(Harm()),
    }
    readers: list[Callable[[Path], object]] = [
        load_codec, lambda path: read_checkpoint(str(path)), lambda path: _read_last(path, "cpu"),
    ]  # fmt: skip
    for name, content in files.items():
        for end in (content, sealed(content)):
            (here / name).write_bytes(end)
            for read in readers:
                with pytest.raises(ConfigError):
                    read(here / name)
    body = io.BytesIO()
    np.savez(body, x=np.array([Harm()], dtype=object))
    kept, key = Kept(here / "kept"), {"a": 1}
    kept.put(key, {}, {})
    (file,) = (here / "kept").iterdir()
    file.write_bytes(body.getvalue() + xxhash.xxh3_128_digest(body.getvalue()))
    assert kept.get(key) is None
    assert is_untouched()


@pytest.mark.parametrize("name", ["evil:Codec", "evils.inner:Codec"])
def test_code_that_a_checkpoint_names_is_not_imported_unasked(here: Path, name: str) -> None:
    path = here / "best_model.pth"
    path.write_bytes(naming(name))
    for trust in (False, ["other:Codec"]):
        with pytest.raises(ConfigError, match=rf"model.name {name}\).*--trust-code"):
            load_codec(path, trust_code=trust)
    assert is_untouched()
    with pytest.raises(ConfigError, match=r"cannot be imported|has no 'Codec'"):
        load_codec(path, trust_code=[name])
    assert not is_untouched()


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (train_level, ["--resume", "run"]),
        (train_level, ["--resume", "run", "--set", "training.epochs=3"]),
        (analyze_levels, ["run"]),
    ],
)
@pytest.mark.parametrize("named", ["data: {format: 'evil:x', splits: {val: {images: images}}}",
                                   "detector: {builder: 'evils.inner:x'}"])  # fmt: skip
def test_code_that_a_run_s_configuration_names_is_not_imported_unasked(
    here: Path, command: click.Command, options: list[str], named: str
) -> None:
    (here / "run").mkdir()
    (here / "run/config.yaml").write_text(named + "\n")
    (here / "run/best_model.pth").write_bytes(naming("evil:Codec"))
    result = CliRunner().invoke(command, [*options, "--device", "cpu"])
    assert result.exit_code == 1
    assert re.search(r"Error: run/config.yaml: names code .*--trust-code", result.output)
    assert is_untouched()


def test_code_that_a_run_to_compress_by_names_is_not_imported_unasked(
    here: Path, zarr_cache: TinyCache
) -> None:
    (here / "run").mkdir()
    (here / "run/best_model.pth").write_bytes(naming("evil:Codec"))
    (here / "features").mkdir()
    (here / "features/val").symlink_to(zarr_cache.folder)
    options = ["--run", "run", "--features", "features", "--out", "out", "--device", "cpu"]
    result = CliRunner().invoke(compress_features, options)
    assert "names code that is not ours (model.name evil:Codec)" in result.output
    assert is_untouched()


@pytest.mark.parametrize("name", ["../secret.png", "{folder}/secret.png", "a/../../secret.png"])
def test_a_name_in_annotations_or_a_list_leads_nowhere_but_into_the_folder(
    here: Path, name: str
) -> None:
    save_image(here / "secret.png", 8, 6)
    (here / "images").mkdir()
    name = name.format(folder=here)
    coco = {
        "images": [{"id": 1, "file_name": name, "height": 6, "width": 8}],
        "annotations": [], "categories": [],
    }  # fmt: skip
    (here / "val.json").write_text(json.dumps(coco))
    with pytest.raises(ConfigError, match=r"images entry 1: .* leads out of"):
        load("coco", images=here / "images", annotations=here / "val.json")
    (here / "list.txt").write_text(name)
    with pytest.raises(ConfigError, match=r"line 1: .* leads out of"):
        load("folder", images=here / "images", image_list=here / "list.txt")
    with pytest.raises(ConfigError, match="leads out of"):
        find_image(here / "images", Listed(name, "list"))


@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_a_device_or_a_pipe_is_not_read(here: Path, kind: str) -> None:
    def put(path: Path) -> Path:
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
        return path

    put(here / "streams.json")
    put(here / "manifest.json")
    for read in (
        lambda: Manifest.load(here),
        lambda: load_index(here),
        lambda: load_codec(put(here / "best_model.pth")),
        lambda: read_header(put(here / "a.png")),
        lambda: decode_rgb(here / "a.png"),
    ):
        with pytest.raises(UserError, match="is no file, but a device, a pipe or a socket"):
            read()


def test_no_lock_or_log_is_written_through_a_link(here: Path) -> None:
    mine = here / "mine.txt"
    mine.write_text("a line without an end")
    (here / "cache").mkdir()
    (here / "cache" / LOG_NAME).symlink_to(mine)
    with pytest.raises(OSError, match="is a link, and nothing is written through one"):
        CommitLog(here / "cache")
    assert mine.read_text() == "a line without an end"


def test_a_shard_of_hdf5_holds_its_values_itself(here: Path) -> None:
    offsets = hdf5_container.create_shard(here / "other.h5", 2, 2, (2, 2, 4), "float16", {}, {})
    assert len(offsets) == 2
    with h5py.File(here / "shard.h5", "w", libver="latest") as file:
        file["features"] = h5py.ExternalLink("other.h5", "/features")
    with pytest.raises(CacheError, match="of another shape"):
        hdf5_container.shard_offsets(here / "shard.h5", 2, 2, 32)


def test_an_image_is_of_no_format_that_starts_a_program(here: Path) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n"
    (here / "a.png").write_bytes(eps)
    for read in (read_header, decode_rgb):
        with pytest.raises(BadImageError, match="not an image that can be read"):
            read(here / "a.png")


def test_entities_of_xml_make_no_more_of_it(here: Path) -> None:
    save_image(here / "images/a.png", 8, 6)
    (here / "labels").mkdir()
    entities = ['<!ENTITY e0 "ha">']
    entities += [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12)]
    bomb = f"<?xml version='1.0'?><!DOCTYPE a [{''.join(entities)}]><a><name>&e11;</name></a>"
    (here / "labels/a.xml").write_text(bomb)
    with pytest.raises(ConfigError, match="not valid XML"):
        load("voc", images=here / "images", annotations=here / "labels")


def test_a_checkpoint_that_inflates_is_refused(here: Path) -> None:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**7))
    for path, end in (("sealed", sealed(body.getvalue())), ("bare", body.getvalue())):
        (here / path).write_bytes(end)
        with pytest.raises(ConfigError, match="it says that it holds more than it has bytes"):
            load_codec(here / path)
    with pytest.raises(ConfigError, match="it says that it holds more than it has bytes"):
        read_checkpoint("bare")


def test_a_checkpoint_of_wider_settings_than_its_weights_is_refused_before_they_are_made(
    here: Path,
) -> None:
    model = tiny_model().model_dump(mode="json") | {"n_hidden": 10**7, "n_channels": 10**7}
    content = encode_checkpoint(
        tiny_codec().state_dict(), check_config({"model": model}, "test"), PROVENANCE,
        levels=(0,), epoch=1, best_validation_loss=1.0,
    )  # fmt: skip
    (here / "best_model.pth").write_bytes(content)
    with pytest.raises(ConfigError, match="its settings are of more weights than it holds"):
        load_codec(here / "best_model.pth")


class Room:
    """Asks for as many bytes as a number says when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (10**12,)


@pytest.mark.parametrize("claim", [torch.zeros(1).expand(10**12), Room()], ids=["tensor", "room"])
def test_a_checkpoint_that_claims_more_than_it_has_bytes_is_refused(
    here: Path, claim: object
) -> None:
    state = {"progress": {}, "optimizer": {"state": {0: {"exp_avg": claim}}}}
    content = saved({"model_state_dict": {}, "training_state": state})
    (here / "last_model.pth").write_bytes(sealed(content))
    (here / "bare").write_bytes(content)
    readers: list[Callable[[], object]] = [
        lambda: load_last(here), lambda: read_checkpoint("bare"),
        lambda: _read_last(here / "bare", "cpu"),
    ]  # fmt: skip
    for read in readers:
        with pytest.raises(ConfigError, match=r"more than it has bytes|memory by a number"):
            read()


def test_a_kept_result_that_swells_is_not_read(here: Path) -> None:
    kept, key = Kept(here / "kept"), {"a": 1}
    kept.put(key, {}, {"zeros": np.zeros(10**6)})
    (file,) = (here / "kept").iterdir()
    assert kept.get(key) is not None  # ours is kept as large as it is
    packed, claiming, header = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with np.load(io.BytesIO(file.read_bytes()[:-16])) as arrays:
        np.savez_compressed(packed, **arrays)
    claim = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(claiming, "w") as archive:
        archive.writestr("zeros.npy", header.getvalue())
    for body in (packed.getvalue(), claiming.getvalue()):
        file.write_bytes(body + xxhash.xxh3_128_digest(body))
        assert kept.get(key) is None


def test_a_manifest_of_larger_maps_than_its_shards_is_refused_before_room_is_made(
    here: Path, tiny_cache: TinyCache
) -> None:
    shutil.copytree(tiny_cache.folder, here / "cache")
    raw = json.loads((here / "cache/manifest.json").read_text())
    for bucket in raw["buckets"]:
        bucket["level_shapes"]["0"] = [2**20, 2**19]
    (here / "cache/manifest.json").write_text(json.dumps(raw))
    with pytest.raises(CacheError):
        LevelReader(here / "cache", 0)


def test_every_test_that_the_promises_name_is_there() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named
    assert {name for name in named if f"def {name}(" not in written} == set()
    own = set(re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE))
    assert own - named == {"test_every_test_that_the_promises_name_is_there"}
