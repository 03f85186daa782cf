"""Pixels of one file, and the companion file that carries boxes to the analysis."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from configs.errors import BadImageError, CacheError, ConfigError
from data.cache.annotations import read_annotations, write_annotations
from data.images.image_sets import read_image
from data.images.records import ImageRecord, ImageSet
from tests.support.datasets import load, one_line, save_image

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


def test_image_is_read_as_it_was_saved(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    image = read_image(str(tmp_path / "a.png"))
    assert image.dtype == np.uint8
    assert np.array_equal(image, PIXELS)


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(str(tmp_path / "grey.png")), PIXELS[..., :1].repeat(3, axis=2))
    Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])).save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(str(tmp_path / "alpha.png")), PIXELS)


def test_truncated_image_passes_its_header_and_fails_when_read(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.jpg", 64, 48)
    path.write_bytes(path.read_bytes()[:-900])
    (record,) = load("folder", images=tmp_path).records
    assert (record.height, record.width) == (48, 64)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: unreadable image \(.*trunc"):
        read_image(record.file)


def test_file_that_is_no_image_is_named_by_listing_and_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("no image")
    message = one_line(f"{path}: not an image that can be read: replace it or leave it out")
    with pytest.raises(ConfigError, match=message):
        load("folder", images=tmp_path)
    with pytest.raises(ConfigError, match=message):
        read_image(str(path))


def test_missing_deep_and_huge_images_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ConfigError, match=one_line(f"{path}: no such image: check the path")):
        read_image(str(path))
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(path)
    with pytest.raises(ConfigError, match=r"a.png: pixels of more than 8 bits \(mode I;16\): conv"):
        read_image(str(path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    message = one_line(f"{path}: image too large to open safely: shrink it or leave it out")
    with pytest.raises(ConfigError, match=message):
        read_image(str(path))


def an_image(boxes: list[list[float]], image_id: int = 3) -> ImageRecord:
    return ImageRecord(
        image_id=image_id,
        file="images/b.jpg",
        height=2000,
        width=3000,
        boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        category_ids=np.arange(len(boxes), dtype=np.int64) % 2 + 17,
        ignored=np.arange(len(boxes)) % 3 == 0,
    )


def an_image_set(*records: ImageRecord) -> ImageSet:
    return ImageSet(split="val", records=records, categories={18: "dog", 17: "cat"})


coordinates = st.floats(min_value=0, max_value=3000, width=32)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(coordinates, min_size=4, max_size=4), max_size=5))
def test_companion_gives_back_exactly_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, corners: list[list[float]]
) -> None:
    boxes = [[*map(min, box[:2], box[2:]), *map(max, box[:2], box[2:])] for box in corners]
    written = an_image_set(an_image(boxes, 9), an_image([], 2))
    path = tmp_path_factory.mktemp("companion") / "annotations.json"
    write_annotations(path, written)
    back = read_annotations(path, "val")
    assert (back.split, back.categories) == ("val", written.categories)
    for was, now in zip(written.records, back.records, strict=True):
        assert (was.image_id, was.file, was.height, was.width) == (
            now.image_id,
            now.file,
            now.height,
            now.width,
        )
        for name in ("boxes_xyxy", "category_ids", "ignored"):
            assert getattr(now, name).dtype == getattr(was, name).dtype
            assert np.array_equal(getattr(now, name), getattr(was, name))


def test_companion_is_plain_coco_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    write_annotations(path, an_image_set(an_image([[1, 2, 4, 8]])))
    found = json.loads(path.read_text())
    info = found.pop("info")  # free in COCO, and where the checksum of the rest stands
    assert info == {"xxh3": xxhash.xxh3_64_hexdigest(json.dumps(found).encode())}
    assert found == {
        "images": [{"id": 3, "file_name": "images/b.jpg", "height": 2000, "width": 3000}],
        "annotations": [
            {
                "id": 1,
                "image_id": 3,
                "bbox": [1.0, 2.0, 3.0, 6.0],
                "area": 18.0,
                "category_id": 17,
                "iscrowd": 1,
            }
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
    }
    assert list(tmp_path.iterdir()) == [path]


def test_areas_of_outlines_come_back_and_are_what_coco_reads(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    image = replace(an_image([[1, 2, 4, 8]]), areas_px=np.array([7.25]))
    write_annotations(path, an_image_set(image))
    assert json.loads(path.read_text())["annotations"][0]["area"] == 7.25
    (back,) = read_annotations(path, "val").records
    assert back.areas_px is not None
    assert back.areas_px.tolist() == [7.25]


def test_companion_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.mkdir()
    with pytest.raises(OSError):
        write_annotations(path, an_image_set())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ['{"images": [', '{"images": []}', "[]", '{"images": [7]}'])
def test_damaged_or_missing_companion_is_a_cache_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "annotations.json"
    with pytest.raises(CacheError, match="no such file: run extract-features for this split"):
        read_annotations(path, "val")
    path.write_text(text)
    with pytest.raises(CacheError, match=r"damaged \(.*\): run extract-features again to repair"):
        read_annotations(path, "val")


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EAGAIN, errno.ESTALE])
def test_image_that_the_system_does_not_give_is_no_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """`--skip-bad-images` would leave it out for good."""
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3)).save(path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ConfigError, match=rf"cannot be read \({os.strerror(number)}\)") as error:
        read_image(str(path))
    assert not isinstance(error.value, BadImageError)
