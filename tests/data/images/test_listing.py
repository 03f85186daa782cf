"""Listing a split names what reading it would find, in its order, and looks at no image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs.errors import MissingDataError
from configs.schema.data import DataConfig, SplitConfig
from data.images import scenes
from data.images.image_sets import load_images
from data.images.listing import ListedImage, list_files
from tests.support.datasets import save_image

VOC = "<annotation></annotation>"


def data_of(format: str, keys: dict[str, Any]) -> DataConfig:
    split = SplitConfig.model_validate(keys)
    return DataConfig.model_validate({"name": "tiny", "format": format, "splits": {"val": split}})


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """Three images, a list of two of them, and labels in every format."""
    for name in ("b.jpg", "a.png", "c.x.png"):
        save_image(tmp_path / "images" / name, 33, 21)
        stem = Path(name).stem
        (tmp_path / f"{stem}.txt").write_text("")
        (tmp_path / f"{stem}.xml").write_text(VOC)
    entries = [
        {"id": 42, "file_name": "b.jpg", "width": 33, "height": 21},
        {"id": 7, "file_name": "c.x.png", "width": 33, "height": 21},
    ]
    content = {"images": entries, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    (tmp_path / "list.txt").write_text("c.x.png\nb.jpg\n")
    (tmp_path / "ids.txt").write_text("c.x\nb\n")
    return tmp_path


@pytest.mark.parametrize(
    ("format", "keys"),
    [
        ("folder", {"images": "images"}),
        ("folder", {"images": "images", "image_list": "list.txt"}),
        ("kitti", {"images": "images", "annotations": "."}),
        ("kitti", {"images": "images", "annotations": ".", "image_list": "ids.txt"}),
        ("voc", {"images": "images", "annotations": ".", "image_list": "ids.txt"}),
        ("coco", {"images": "images", "annotations": "coco.json"}),
        ("coco", {"images": "images", "annotations": "coco.json", "image_list": "list.txt"}),
        ("scenes", {"num_scenes": 3, "scene_seed": 5}),
    ],
)
def test_listing_names_what_is_read_without_looking_at_an_image(
    data_set: Path, monkeypatch: pytest.MonkeyPatch, format: str, keys: dict[str, Any]
) -> None:
    monkeypatch.chdir(data_set)
    records = load_images(data_of(format, keys), "val").records
    for module, name in ((Image, "open"), (scenes, "render_scene")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("an image was looked at"))
    listed = list_files(data_of(format, keys), "val")
    assert len(listed) == len(records) > 1
    for image, record in zip(listed, records, strict=True):
        assert image.is_in(record.file)
        assert [other for other in records if image.is_in(other.file)] == [record]
        assert image.image_id == (record.image_id if format == "coco" else None)


@pytest.mark.parametrize(
    ("name", "file", "same"),
    [
        ("a.png", "/old/place/a.png", True),
        ("sub/a.png", "/old/place/sub/a.png", True),
        ("sub/a.png", "/old/place/other/a.png", False),
        ("a.png", "/old/place/aa.png", False),
        ("000012", "image_2/000012.png", True),
        ("000012", "image_2/000012.PNG", True),
        ("000012", "image_2/1000012.png", False),
        ("2", "image_2/a.2", False),
        ("/new/place/a.png", "/old/place/a.png", True),
        ("scene:1:2", "scene:1:2", True),
        ("scene:1:2", "scene:1:20", False),
    ],
)
def test_name_is_compared_without_the_folder_above_and_an_ending_that_a_list_leaves_out(
    name: str, file: str, same: bool
) -> None:
    assert ListedImage(name=name, image_id=None).is_in(file) is same


@pytest.mark.parametrize(
    ("format", "keys"),
    [
        ("folder", {"images": "gone"}),
        ("folder", {"images": "empty"}),
        ("kitti", {"images": "images", "image_list": "gone.txt"}),
        ("coco", {"images": "images", "annotations": "gone.json"}),
    ],
)
def test_what_is_not_on_this_machine_is_told_from_a_mistake(
    data_set: Path, monkeypatch: pytest.MonkeyPatch, format: str, keys: dict[str, Any]
) -> None:
    monkeypatch.chdir(data_set)
    Path("empty").mkdir()
    with pytest.raises(MissingDataError, match=r"gone|empty"):
        list_files(data_of(format, keys), "val")
