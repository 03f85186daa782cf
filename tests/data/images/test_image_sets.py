"""Plain folders and lists of images, and the mistakes that a split's settings may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.schema.data import DataConfig
from data.images.image_sets import load_images
from tests.support.datasets import load, one_line, save_image


def test_folder_is_searched_recursively_and_sorted(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/z.png", "a/.hidden.png", "c.webp"):
        save_image(tmp_path / name, 19, 23)
    (tmp_path / "notes.txt").write_text("no image")
    images = load("folder", images=tmp_path)
    assert [(r.image_id, r.file) for r in images.records] == [
        (1, str(tmp_path / "a/z.png")),
        (2, str(tmp_path / "b.JPG")),
        (3, str(tmp_path / "c.webp")),
    ]
    assert images.categories == {}
    assert [record.boxes_xyxy.shape for record in images.records] == [(0, 4)] * 3


@pytest.mark.parametrize("relative_to_images", [True, False])
def test_folder_list_is_relative_to_images_or_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative_to_images: bool
) -> None:
    save_image(tmp_path / "sub/b.png", 19, 23)
    save_image(tmp_path / "a.png", 5, 6)
    (tmp_path / "list.txt").write_text("sub/b.png\r\na.png")
    keys: dict[str, Any] = {"images": tmp_path} if relative_to_images else {}
    monkeypatch.chdir(tmp_path / "sub" if relative_to_images else tmp_path)
    images = load("folder", **keys, image_list=tmp_path / "list.txt")
    assert [(r.image_id, r.height, r.width) for r in images.records] == [(1, 23, 19), (2, 6, 5)]


def test_missing_or_repeated_image_of_a_list_is_named_with_its_line(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", 5, 6)
    lines = tmp_path / "list.txt"
    lines.write_text("a.png\n\nb.png\n")
    message = f"{lines}: line 3: no image 'b.png' in {tmp_path}: correct the list or the folder"
    with pytest.raises(ConfigError, match=one_line(message)):
        load("folder", images=tmp_path, image_list=lines)
    lines.write_text("a.png\na.png\n")
    message = f"{lines}: line 2: 'a.png' is on line 1 too: remove one"
    with pytest.raises(ConfigError, match=one_line(message)):
        load("folder", images=tmp_path, image_list=lines)


def test_empty_folder_and_empty_list_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: holds no image \(jpg jpeg png .* name the"):
        load("folder", images=tmp_path / "empty")
    (tmp_path / "list.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match=r"list.txt: names no image: write one a line"):
        load("folder", image_list=tmp_path / "list.txt")


SETTING_MISTAKES = [
    ("folder", {}, "images: is not set: name the folder of the images, or an image_list"),
    ("voc", {}, "images: is not set: name the folder of the images"),
    ("kitti", {"images": "nowhere"}, "images: nowhere is not a folder: correct the path"),
    (
        "coco",
        {"images": ".", "annotations": "x.json"},
        "annotations: x.json is not a file: name the COCO JSON file",
    ),
    (
        "voc",
        {"images": ".", "annotations": "Annotation"},
        "annotations: Annotation is not a folder: correct the path",
    ),
    (
        "kitti",
        {"images": ".", "image_list": "x.txt"},
        "image_list: x.txt is not a file: name a text file of images",
    ),
    (
        "folder",
        {"images": ".", "annotations": "x.json"},
        "annotations: not for format folder: remove it, or set data.format to coco or kitti or voc",
    ),
]


@pytest.mark.parametrize(("format", "keys", "message"), SETTING_MISTAKES)
def test_mistake_in_a_split_names_the_key(
    format: str, keys: dict[str, Any], message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=one_line(f"data.splits.val.{message}")):
        load(format, **keys)


def test_unknown_split_names_the_nearest_and_all() -> None:
    message = (
        "data.splits: no split 'trian': did you mean 'train'? (the splits are train, val, test)"
    )
    with pytest.raises(ConfigError, match=one_line(message)):
        load_images(DataConfig(), "trian")


def test_format_without_splits_and_classes_without_use_are_refused(tmp_path: Path) -> None:
    message = "data.splits: is not set: name each split's images (format coco)"
    with pytest.raises(ConfigError, match=one_line(message)):
        load_images(DataConfig(format="coco"), "train")
    message = "data.classes: not for format folder, only for kitti and voc: remove it"
    with pytest.raises(ConfigError, match=one_line(message)):
        load("folder", images=tmp_path, classes=["car"])
