"""A manifest that somebody else wrote is checked once, where it is read, and then believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.errors import CacheError
from data.cache.manifest import FILE_NAME, Manifest
from data.coding.byte_code import ByteCode
from tests.support.extraction import TinyCache, plan_of

Raw = dict[str, Any]

IMAGE_ID, FILE, HEIGHT, WIDTH, INPUT_HEIGHT, INPUT_WIDTH, BUCKET, ROW = range(8)

# Names that would lead out of the folder that they are joined to, or are none on any disk.
NO_NAMES = ["..", ".", "", "../val", "/etc", "a/b", "a\\b", "a\0b", "a\nb", "\ud800", "x" * 256, 7]


def set_at(*place: str | int, value: Any) -> Callable[[Raw], None]:
    """What sets one value of a manifest."""

    def change(raw: Raw) -> None:
        inside: Any = raw
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = value

    return change


@pytest.fixture(scope="module")
def byte_manifest(tiny_config: Path) -> str:
    """The JSON of a manifest of a cache in 8 bits."""
    plan, _ = plan_of(tiny_config)
    code = ByteCode(scale=(0.5,) * 256, offset=(-1.5,) * 256)
    codes = {level.index: code for level in plan.levels}
    return replace(plan, dtype="uint8", format_version=2, codes=codes).to_json()


def same_row_twice(raw: Raw) -> None:
    first, second = [row for row in raw["samples"] if row[BUCKET] == 2][:2]
    second[ROW] = first[ROW]


def buckets_of_one_size(raw: Raw) -> None:
    for key in ("height_px", "width_px"):
        raw["buckets"][0][key] = raw["buckets"][1][key]


CHANGES: dict[str, tuple[Callable[[Raw], None], str]] = {
    "unknown container": (set_at("container", value="tar"), "container: .* 'zarr' or 'hdf5'"),
    "unknown dtype": (set_at("dtype", value="int8"), "dtype: .* 'float16', 'float32' or 'uint8'"),
    "bucket 99": (set_at("samples", 0, BUCKET, value=99), "is in bucket 99"),
    "bucket -1": (set_at("samples", 0, BUCKET, value=-1), r"samples\.0\.bucket: "),
    "rows used twice": (same_row_twice, "image .* is in bucket 2, row 0"),
    "zero samples a shard": (
        set_at("buckets", 0, "samples_per_shard", "0", value=0),
        r"buckets\.0\.samples_per_shard\.0: .* greater than 0",
    ),
    "units that straddle shards": (
        set_at("buckets", 0, "samples_per_shard", "4", value=10**6), "in a shard",
    ),
    "a bucket of more images": (set_at("buckets", 0, "num_samples", value=10**6), "have .* images"),
    "a map without positions": (
        set_at("buckets", 0, "level_shapes", "0", value=[0, 4]), "greater than 0",
    ),
    "a map of three sides": (
        set_at("buckets", 0, "level_shapes", "0", value=[4, 4, 4]), r"level_shapes\.0: ",
    ),
    "a map beyond any disk": (
        set_at("buckets", 0, "level_shapes", "0", value=[2**31 - 1] * 2), "larger than any disk",
    ),
    "a bucket without a level": (lambda raw: raw["buckets"][0]["level_shapes"].pop("2"), "levels"),
    "buckets of one size": (buckets_of_one_size, "two of its buckets"),
    "a size that is text": (set_at("buckets", 0, "height_px", value="9/../../x"), "height_px: "),
    "true as a number": (set_at("buckets", 0, "num_samples", value=True), "num_samples: "),
    "no levels": (set_at("levels", value=[]), r"levels are \[\]"),
    "a level twice": (set_at("levels", 1, "index", value=0), r"levels are \[0, 0"),
    "a level that is a path": (set_at("levels", 0, "index", value="0/../../x"), "levels.0.index"),
    "one derived from itself": (set_at("levels", 4, "derived_from", value=4), "is derived from"),
    "one derived from a level of other sizes": (
        set_at("buckets", 0, "level_shapes", "4", value=[9, 9]), "is not half of its source",
    ),
    "one derived from a level of other channels": (
        set_at("levels", 4, "num_channels", value=3), "level 4 is derived from level 3",
    ),
    "level 64": (set_at("levels", 4, "index", value=64), r"levels\.4\.index: .* less than 64"),
    "sides beyond int32": (set_at("buckets", 0, "width_px", value=2**31), "width_px: .* less"),
    "channels beyond int32": (set_at("levels", 0, "num_channels", value=2**31), "num_channels: "),
    "no channels": (set_at("levels", 0, "num_channels", value=0), "num_channels"),
    "no images": (set_at("samples", value=[]), "have .* images"),
    "an id twice": (set_at("samples", 0, IMAGE_ID, value=2), "one id"),
    "an id that is a path": (set_at("samples", 0, IMAGE_ID, value="../../x"), r"image_id: "),
    "an id beyond int64": (set_at("samples", 0, IMAGE_ID, value=2**63), r"image_id: "),
    "an image larger than its bucket": (
        set_at("samples", 0, INPUT_HEIGHT, value=10**6), "larger than its bucket",
    ),
    "no height": (set_at("samples", 0, HEIGHT, value=0), r"height: "),
    "a row cut short": (lambda raw: raw["samples"][0].pop(), "zip"),
    "an unknown field": (set_at("sample_fields", FILE, value="files"), r"samples\.0\.file: "),
    "a crop of nothing": (set_at("crop", value=0), "crop: "),
    "no detector": (set_at("detector", value={}), r"detector\.builder: "),
    "weights without a hash": (set_at("detector", "weights_sha256", value=None), "weights_sha256"),
    "a resize of one side": (set_at("detector", "resize", value=[3]), "resize"),
    "skipped images that are numbers": (set_at("skipped", value=[3]), r"skipped\.0"),
}  # fmt: skip


@pytest.fixture
def raw(zarr_cache: TinyCache) -> Raw:
    content: Raw = json.loads((zarr_cache.folder / FILE_NAME).read_text())
    return content


@pytest.mark.parametrize("case", CHANGES)
def test_manifest_whose_values_cannot_be_is_refused_in_one_line_that_says_which(
    raw: Raw, tmp_path: Path, case: str
) -> None:
    change, problem = CHANGES[case]
    before = json.dumps(raw)
    change(raw)
    assert json.dumps(raw) != before
    (tmp_path / FILE_NAME).write_text(json.dumps(raw))
    with pytest.raises(CacheError, match=problem) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / FILE_NAME}: is damaged (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
@pytest.mark.parametrize("key", ["dataset", "split"])
def test_name_in_a_manifest_is_one_component_of_a_path(
    raw: Raw, tmp_path: Path, key: str, name: str | int
) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps(raw | {key: name}))
    with pytest.raises(CacheError, match=f"{key}: "):
        Manifest.load(tmp_path)


def test_file_whose_name_is_no_utf_8_comes_back_from_a_manifest(raw: Raw, tmp_path: Path) -> None:
    raw["samples"][0][FILE] = "images/a\udcff.png"
    (tmp_path / FILE_NAME).write_text(json.dumps(raw))
    manifest = Manifest.load(tmp_path)
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path).samples[0].file == "images/a\udcff.png"


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, "9" * 5000, '"\\ud8', b"\xff\xfe{"])
def test_odd_json_is_a_damaged_manifest(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CacheError, match="is damaged"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw.pop("codes"), "is of uint8, without codes"),
        (set_at("dtype", value="float16"), "is of float16, with codes"),
        (set_at("format_version", value=1), "of uint8 and of format version 1"),
        (lambda raw: raw["codes"].pop("3"), r"codes are of levels \[0, 1, 2, 4\]"),
        (
            set_at("codes", "2", "scale", value="AACAPw=="),
            "code of level 2 is of 1 and 256 channels",
        ),
        (set_at("codes", "2", "scale", value="no base64!"), r"codes\.2\.scale"),
        (set_at("codes", "1", "offset", value="//9/f" * 5), r"codes\.1\.offset"),
        (set_at("codes", "0", value={"scale": "AACAPw=="}), r"codes\.0\.offset"),
    ],
)
def test_codes_that_cannot_be_are_refused_in_one_line_that_says_which(
    byte_manifest: str, change: Callable[[Raw], None], reason: str
) -> None:
    raw = json.loads(byte_manifest)
    change(raw)
    with pytest.raises(ValueError, match=reason):
        Manifest.from_json(raw)


def test_codes_come_back_from_json_and_belong_to_the_fingerprint(byte_manifest: str) -> None:
    manifest = Manifest.from_json(json.loads(byte_manifest))
    assert manifest.to_json() == byte_manifest
    assert manifest.codes is not None
    others = manifest.codes | {0: ByteCode(scale=(1.0,) * 256, offset=(0.0,) * 256)}
    other = replace(manifest, codes=others)
    assert other.fingerprint != manifest.fingerprint
    assert other.difference_from(manifest) == "codes: of other ranges of the channels"
    assert replace(manifest, codes=None).difference_from(manifest) is None
