"""COCO JSON on tiny real files: exact boxes, ids and sizes; every mistake is one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from data.images.image_sets import read_image
from tests.support.datasets import load, one_line, save_image

SHARED = Path(__file__).parents[4] / "shared/datasets"


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write a COCO data set of two images; `change` may damage the JSON before it is written."""

    def write(change: Callable[[dict[str, Any]], object] = lambda content: None) -> dict[str, Any]:
        save_image(tmp_path / "images/b.jpg", 33, 21)
        save_image(tmp_path / "images/sub/a.png", 17, 40, "L")
        content: dict[str, Any] = {
            "images": [
                {"id": 42, "file_name": "b.jpg", "width": 33, "height": 21},
                {"id": 7, "file_name": "sub/a.png", "width": 17, "height": 40},
            ],
            "annotations": [
                {"id": 1, "image_id": 42, "category_id": 18, "bbox": [1.5, 2, 10, 5.25]},
                {"id": 2, "image_id": 42, "category_id": 1, "bbox": [0, 0, 33, 9], "iscrowd": 1},
                {"id": 3, "image_id": 42, "category_id": 1, "bbox": [4, 4, 0, 9]},
                {"id": 4, "image_id": 42, "category_id": 1, "bbox": [30, 18, 9, 9]},
            ],
            "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        }
        change(content)
        (tmp_path / "val.json").write_text(json.dumps(content))
        return {"images": tmp_path / "images", "annotations": tmp_path / "val.json"}

    return write


def test_coco_keeps_its_own_ids_order_and_sizes(coco: Any, tmp_path: Path) -> None:
    images = load("coco", **coco())
    assert images.categories == {18: "dog", 1: "person"}
    assert [(r.image_id, r.height, r.width) for r in images.records] == [(42, 21, 33), (7, 40, 17)]
    assert [r.file for r in images.records] == [
        str(tmp_path / "images/b.jpg"),
        str(tmp_path / "images/sub/a.png"),
    ]


def test_coco_boxes_are_clipped_and_those_without_area_dropped(coco: Any) -> None:
    first, second = load("coco", **coco()).records
    assert first.boxes_xyxy.dtype == np.float32
    assert first.boxes_xyxy.tolist() == [[1.5, 2, 11.5, 7.25], [0, 0, 33, 9], [30, 18, 33, 21]]
    assert first.category_ids.dtype == np.int64
    assert first.category_ids.tolist() == [18, 1, 1]
    assert first.ignored.tolist() == [False, True, False]
    assert second.boxes_xyxy.shape == (0, 4)
    assert second.category_ids.shape == second.ignored.shape == (0,)


def test_coco_areas_are_the_files_own_where_every_box_of_an_image_has_one(coco: Any) -> None:
    """By them, not by the boxes, COCO tells small objects from large ones."""

    def with_areas(content: dict[str, Any]) -> None:
        for number, entry in enumerate(content["annotations"]):
            entry["area"] = 10 + number

    first, second = load("coco", **coco(with_areas)).records
    assert first.areas_px is not None
    assert first.areas_px.tolist() == [10, 11, 13]  # the third box is dropped
    assert second.areas_px is not None
    assert second.areas_px.shape == (0,)
    assert load("coco", **coco()).records[0].areas_px is None
    wrong = coco(lambda content: content["annotations"][0].update(area="big"))
    with pytest.raises(ConfigError, match="annotations entry 1: area: 'big' is not a number: "):
        load("coco", **wrong)


@pytest.mark.parametrize("crowd", [("0", "1"), (0, True), (None, 1.0)])
def test_coco_numbers_that_are_text_are_read_as_what_they_say(
    coco: Any, crowd: tuple[object, object]
) -> None:
    def as_text(content: dict[str, Any]) -> None:
        for entry, iscrowd in zip(content["annotations"], crowd, strict=False):
            entry["bbox"] = [str(number) for number in entry["bbox"]]
            entry["iscrowd"] = iscrowd

    found, usual = (load("coco", **coco(*change)).records[0] for change in ((as_text,), ()))
    assert found.boxes_xyxy.tolist() == usual.boxes_xyxy.tolist()
    assert found.ignored.tolist()[:2] == [False, True]


@pytest.mark.parametrize("name", ["7", "sub/a.png", "{images}/sub/a.png"])
def test_coco_image_list_takes_ids_names_and_paths(coco: Any, tmp_path: Path, name: str) -> None:
    keys = coco()
    (tmp_path / "list.txt").write_text(f"{name.format(**keys)}\n\n42\n")
    images = load("coco", **keys, image_list=tmp_path / "list.txt")
    assert [record.image_id for record in images.records] == [7, 42]


def test_coco_without_sizes_takes_them_from_the_header(coco: Any) -> None:
    keys = coco(lambda content: [content["images"][1].pop(key) for key in ("width", "height")])
    record = load("coco", **keys).records[1]
    assert (record.height, record.width) == (40, 17)


COCO_MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown category": (
        lambda c: c["annotations"][1].update(category_id=99),
        "annotations entry 2: no category has the id 99: the categories are 18, 1",
    ),
    "unknown image": (
        lambda c: c["annotations"][0].update(image_id=5),
        "annotations entry 1: no image has the id 5: add it to the images",
    ),
    "bbox short": (
        lambda c: c["annotations"][0].update(bbox=[1, 2, 3]),
        "annotations entry 1: bbox is [1, 2, 3]: write [x, y, width, height]",
    ),
    "bbox not a number": (
        lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]),
        "annotations entry 1: bbox: nan is not a finite number: write [x, y, width, height]",
    ),
    "bbox true": (
        lambda c: c["annotations"][0].update(bbox=[1, 2, True, 4]),
        "annotations entry 1: bbox: True is not a number: write [x, y, width, height]",
    ),
    "bbox negative": (
        lambda c: c["annotations"][0].update(bbox=[1, 2, 3, -4]),
        "annotations entry 1: bbox: height -4 is less than 0: write [x, y, width, height]",
    ),
    "bbox text": (
        lambda c: c["annotations"][0].update(bbox=[1, 2, "3px", 4]),
        "annotations entry 1: bbox: '3px' is not a number: write [x, y, width, height]",
    ),
    "area negative": (
        lambda c: c["annotations"][0].update(area=-3),
        "annotations entry 1: area: -3 is less than 0: write it in px, or leave it out",
    ),
    "crowd in words": (
        lambda c: c["annotations"][0].update(iscrowd="false"),
        "annotations entry 1: iscrowd: 'false' is neither 0 nor 1: write 0 or 1",
    ),
    "width is text": (
        lambda c: c["images"][0].update(width="33"),
        "images entry 1: width is '33': write a whole number",
    ),
    "category is true": (
        lambda c: c["annotations"][0].update(category_id=True),
        "annotations entry 1: category_id is True: write a whole number",
    ),
    "category twice": (
        lambda c: c["categories"][1].update(id=18),
        "categories entry 2: category id 18 is there twice: remove one",
    ),
    "id twice": (
        lambda c: c["images"][1].update(id=42),
        "images entry 2: image id 42 is there twice: remove one",
    ),
    "id is text": (
        lambda c: c["images"][1].update(id="7"),
        "images entry 2: id is '7': write a whole number",
    ),
    "no name": (
        lambda c: c["categories"][0].pop("name"),
        "categories entry 1: name is None: write a text",
    ),
    "no size": (
        lambda c: c["images"][0].update(height=0),
        "images entry 1: size 33 x 0: write the image's size in px",
    ),
    "entry is text": (
        lambda c: c["images"].append("b.jpg"),
        "images entry 3: not an object: correct it",
    ),
    "captions file": (
        lambda c: c.pop("categories"),
        "has no list 'categories': name a COCO file of instances, such as instances_train2017.json",
    ),
}


@pytest.mark.parametrize("mistake", COCO_MISTAKES)
def test_mistake_in_a_coco_file_is_named_with_its_entry(coco: Any, mistake: str) -> None:
    change, message = COCO_MISTAKES[mistake]
    keys = coco(change)
    with pytest.raises(ConfigError, match=one_line(f"{keys['annotations']}: {message}")):
        load("coco", **keys)


def test_coco_image_that_does_not_exist_is_named(coco: Any) -> None:
    keys = coco(lambda content: content["images"][0].update(file_name="c.jpg"))
    message = (
        f"{keys['annotations']}: images entry 1: {keys['images']}/c.jpg does not exist: "
        "check the folder of the images"
    )
    with pytest.raises(ConfigError, match=one_line(message)):
        load("coco", **keys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [\n{"id": 1,}]}', "line 2: not valid JSON (Expecting property name"),
        ("[1]", "not a COCO file: it has to hold images and annotations"),
        ("caf\u00e9", "not UTF-8 text at byte 3: name a text file, or convert it"),
    ],
)
def test_malformed_coco_file_is_named(coco: Any, text: str, message: str) -> None:
    keys = coco()
    keys["annotations"].write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=re.escape(f"{keys['annotations']}: {message}")):
        load("coco", **keys)


def test_coco_list_with_unknown_or_repeated_image_is_named(coco: Any, tmp_path: Path) -> None:
    keys, lines = coco(), tmp_path / "list.txt"
    lines.write_text("42\nsub/b.png\n")
    message = (
        f"{lines}: line 2: {keys['annotations']} has no image 'sub/b.png': "
        "did you mean 'sub/a.png'?"
    )
    with pytest.raises(ConfigError, match=one_line(message)):
        load("coco", **keys, image_list=lines)
    lines.write_text("42\nb.jpg\n")
    message = f"{lines}: line 2: image 42 is listed twice: remove one line"
    with pytest.raises(ConfigError, match=one_line(message)):
        load("coco", **keys, image_list=lines)


def test_coco_without_annotations_points_to_format_folder(coco: Any) -> None:
    message = (
        "data.splits.val.annotations: is not set: name the COCO JSON file, or set data.format "
        "to folder for images without boxes"
    )
    with pytest.raises(ConfigError, match=one_line(message)):
        load("coco", images=coco()["images"])


def test_coco_file_without_images_is_refused(coco: Any) -> None:
    keys = coco(lambda content: content.update(images=[], annotations=[]))
    message = "data.splits.val: holds no image: name a split that does"
    with pytest.raises(ConfigError, match=one_line(message)):
        load("coco", **keys)


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data sets beside the checkout")
@pytest.mark.parametrize(
    ("folder", "annotations", "num_images", "num_boxes"),
    [
        ("pennfudan/images", "pennfudan/annotations/train.json", 119, 287),
        ("pennfudan/images", "pennfudan/annotations/val.json", 51, 136),
        ("coco128/train2017", "coco128/annotations/train2017.json", 128, 929),
    ],
)
def test_real_coco_files_agree_with_their_images(
    folder: str, annotations: str, num_images: int, num_boxes: int
) -> None:
    images = load("coco", images=SHARED / folder, annotations=SHARED / annotations)
    assert len(images.records) == num_images
    assert sum(len(record.boxes_xyxy) for record in images.records) == num_boxes
    for record in images.records[:8]:
        assert read_image(record.file).shape == (record.height, record.width, 3)
