"""KITTI and VOC label files: which classes count, exact boxes, and the mistakes they may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from data.images.labels import LabelledBox, flag, make_record
from tests.support.datasets import load, one_line, save_image

KITTI_LABELS = """\
Pedestrian 0.00 0 -0.20 7.50 4.25 20.00 30.75 1.89 0.48 1.20 1.84 1.47 8.41 0.01
Van 0.00 0 1.85 1.00 2.00 9.00 8.00 1.67 1.87 3.69 -16.53 2.39 58.49 1.57

Car 0.00 0 1.85 38.00 10.00 60.00 29.00 1.67 1.87 3.69 -16.53 2.39 58.49 1.57
DontCare -1 -1 -10 3.00 1.00 8.00 6.00 -1 -1 -1 -1000 -1000 -1000 -10
"""

VOC_LABELS = """\
<?xml version="1.0" encoding="ISO-8859-1"?>
<annotation>
  <source>Vicen\u00e7</source>
  <object><name>dog</name><difficult>0</difficult>
    <bndbox><xmin>1</xmin><ymin>3.5</ymin><xmax>33</xmax><ymax>20</ymax></bndbox></object>
  <object><name>person</name><difficult>1</difficult>
    <bndbox><xmin>9</xmin><ymin>8</ymin><xmax>12</xmax><ymax>21</ymax></bndbox>
    <part><name>head</name>
      <bndbox><xmin>9</xmin><ymin>8</ymin><xmax>10</xmax><ymax>9</ymax></bndbox></part></object>
  <object><name>cat</name>
    <bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>
</annotation>
"""


@pytest.fixture
def kitti(tmp_path: Path) -> dict[str, Any]:
    save_image(tmp_path / "image_2/000007.png", 61, 31)
    save_image(tmp_path / "image_2/000012.png", 41, 35, "L")
    (tmp_path / "label_2").mkdir()
    (tmp_path / "label_2/000007.txt").write_text(KITTI_LABELS)
    (tmp_path / "label_2/000012.txt").write_text("")
    return {"images": tmp_path / "image_2", "annotations": tmp_path / "label_2"}


@pytest.fixture
def voc(tmp_path: Path) -> dict[str, Any]:
    save_image(tmp_path / "JPEGImages/2008_000007.jpg", 33, 21)
    save_image(tmp_path / "JPEGImages/2008_000003.jpg", 15, 9, "L")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/2008_000007.xml").write_text(VOC_LABELS, encoding="latin-1")
    (tmp_path / "Annotations/2008_000003.xml").write_text("<annotation></annotation>")
    return {"images": tmp_path / "JPEGImages", "annotations": tmp_path / "Annotations"}


def test_kitti_counts_its_three_classes_and_ignores_dont_care_for_each(kitti: Any) -> None:
    images = load("kitti", **kitti)
    assert images.categories == {1: "Car", 2: "Pedestrian", 3: "Cyclist"}
    first, second = images.records
    assert (first.image_id, first.height, first.width) == (1, 31, 61)
    assert first.boxes_xyxy.tolist() == [
        [7.5, 4.25, 20, 30.75],
        [38, 10, 60, 29],
        *[[3, 1, 8, 6]] * 3,
    ]
    assert first.category_ids.tolist() == [2, 1, 1, 2, 3]
    assert first.ignored.tolist() == [False, False, True, True, True]
    assert (second.image_id, second.height, second.width) == (2, 35, 41)
    assert second.boxes_xyxy.shape == (0, 4)


def test_kitti_classes_of_the_user_replace_the_usual_ones(kitti: Any) -> None:
    images = load("kitti", **kitti, classes=["Van", "Car"])
    assert images.categories == {1: "Van", 2: "Car"}
    assert images.records[0].category_ids.tolist() == [1, 2, 1, 2]
    assert images.records[0].ignored.tolist() == [False, False, True, True]


def test_kitti_list_of_ids_gives_the_order(kitti: Any, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("000012\n000007.png\n")
    images = load("kitti", **kitti, image_list=tmp_path / "val.txt")
    assert [(record.image_id, Path(record.file).stem) for record in images.records] == [
        (1, "000012"),
        (2, "000007"),
    ]


@pytest.mark.parametrize("format", ["kitti", "voc"])
def test_without_labels_there_are_neither_boxes_nor_categories(kitti: Any, format: str) -> None:
    images = load(format, images=kitti["images"])
    assert images.categories == {}
    assert [record.boxes_xyxy.shape for record in images.records] == [(0, 4), (0, 4)]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            "Car 0 0 0 1 2 3",
            "7 fields, but a KITTI label has 15 (type, truncated, occluded, alpha, "
            "left, top, right, bottom, ...): correct the line",
        ),
        ("Car 0 0 0 1 2 x 4 1 1 1 1 1 1 1", "right: 'x' is not a number: correct the line"),
        ("Car 0 0 0 1 2 3_0 4 1 1 1 1 1 1 1", "right: '3_0' is not a number: correct the line"),
        (
            "Car 0 0 0 1 2 inf 4 1 1 1 1 1 1 1",
            "right: 'inf' is not a finite number: correct the line",
        ),
        (
            "Person sitting 0.00 0 -0.20 7.5 4.25 20 30.75 1 1 1 1 1 1 0",
            "truncated: 'sitting' is not a number: correct the line",
        ),
        ("Car 0 0 0 9 2 3 4", "right 3 is less than left 9: correct the line"),
        ("DontCare 0 0 0 1 5 3 4", "bottom 4 is less than top 5: correct the line"),
        ("car 0 0 0 1 2 3 4", "unknown class 'car': did you mean 'Car'?"),
        ("zebra 0 0 0 1 2 3 4", "unknown class 'zebra': name your classes in data.classes"),
    ],
)
def test_mistake_in_a_kitti_label_names_file_and_line(kitti: Any, label: str, message: str) -> None:
    path = kitti["annotations"] / "000007.txt"
    path.write_text(f"{KITTI_LABELS.splitlines()[0]}\n{label}\n")
    with pytest.raises(ConfigError, match=one_line(f"{path}: line 2: {message}")):
        load("kitti", **kitti)


def test_image_without_label_file_is_named(kitti: Any) -> None:
    save_image(kitti["images"] / "000013.png", 9, 9)
    message = (
        f"{kitti['annotations']}/000013.txt: no such label file for {kitti['images']}/000013.png: "
        "add it, or leave the image out with an image_list"
    )
    with pytest.raises(ConfigError, match=one_line(message)):
        load("kitti", **kitti)


def test_classes_that_never_occur_are_refused_with_those_that_do(kitti: Any) -> None:
    message = (
        f"data.classes: none of car, bus occurs in {kitti['annotations']}: "
        "the labels there hold Car (1), Pedestrian (1), Van (1)"
    )
    with pytest.raises(ConfigError, match=one_line(message)):
        load("kitti", **kitti, classes=["car", "bus"])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "data.classes: is empty: name at least one class, or remove the key"),
        (["Car", "Van", "Car"], "data.classes: 'Car' is there twice: remove one"),
    ],
)
def test_classes_have_to_be_some_and_different(
    kitti: Any, classes: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=one_line(message)):
        load("kitti", **kitti, classes=classes)


def test_voc_coordinates_become_zero_based_and_difficult_ones_ignored(voc: Any) -> None:
    images = load("voc", **voc)
    assert len(images.categories) == 20
    assert (images.categories[1], images.categories[20]) == ("aeroplane", "tvmonitor")
    first, second = images.records
    assert (first.image_id, first.height, first.width, len(first.boxes_xyxy)) == (1, 9, 15, 0)
    assert (second.image_id, second.height, second.width) == (2, 21, 33)
    assert second.boxes_xyxy.tolist() == [[0, 2.5, 33, 20], [8, 7, 12, 21], [4, 4, 5, 5]]
    assert [images.categories[i] for i in second.category_ids] == ["dog", "person", "cat"]
    assert second.ignored.tolist() == [False, True, False]


def test_voc_classes_and_list_of_the_user_are_followed(voc: Any, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("2008_000007\n")
    images = load("voc", **voc, image_list=tmp_path / "val.txt", classes=["cat"])
    assert images.categories == {1: "cat"}
    assert [(r.image_id, r.boxes_xyxy.tolist()) for r in images.records] == [(1, [[4, 4, 5, 5]])]


def test_listed_id_without_image_is_named_with_its_line(voc: Any, tmp_path: Path) -> None:
    lines = tmp_path / "val.txt"
    lines.write_text("2008_000007\n2008_000008\n")
    message = (
        f"{lines}: line 2: no image '2008_000008' in {voc['images']}: "
        "correct the list or the folder"
    )
    with pytest.raises(ConfigError, match=one_line(message)):
        load("voc", **voc, image_list=lines)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</object>", "</objec>", "line 5: not valid XML (mismatched tag): correct it"),
        (
            "ISO-8859-1",
            "UTF-32",
            "not valid XML (multi-byte encodings are not supported): correct it",
        ),
        ("ISO-8859-1", "x-own", "not valid XML (unknown encoding: x-own): correct it"),
        ("<name>dog", "<name>dogg", "object 1: unknown class 'dogg': did you mean 'dog'?"),
        ("<ymax>20<", "<ymax>2O<", "object 1: ymax: '2O' is not a number: correct it"),
        ("<ymax>20</ymax>", "", "object 1: no <bndbox> with <ymax>: add it"),
        ("<ymax>20<", "<ymax>nan<", "object 1: ymax: 'nan' is not a finite number: correct it"),
        ("<ymax>20<", "<ymax>\u0662<", "object 1: ymax: '\u0662' is not a number: correct it"),
        ("<ymax>20<", "<ymax>2<", "object 1: ymax 2 is less than ymin 3.5: correct it"),
        ("<name>dog<", "<name> <", "object 1: no <name>: add it"),
        (
            "<difficult>1<",
            "<difficult>true<",
            "object 2: difficult: 'true' is neither 0 nor 1: correct it",
        ),
        (
            "<source>",
            "<size><width>33</width><height>tall</height></size><source>",
            "size: height: 'tall' is not a number: correct it",
        ),
        (
            "<source>",
            "<size><width>-33</width><height>21</height></size><source>",
            "size: width: '-33' is no size in px: correct it",
        ),
    ],
)
def test_mistake_in_a_voc_file_is_named(voc: Any, old: str, new: str, message: str) -> None:
    path = voc["annotations"] / "2008_000007.xml"
    text = VOC_LABELS.replace(old, new).replace("ISO-8859-1", "UTF-8")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=one_line(f"{path}: {message}")):
        load("voc", **voc)


@pytest.mark.parametrize("size", ["", "<width>0</width><height>0</height>", "<width/><height/>"])
def test_voc_size_that_tools_left_empty_is_not_compared(voc: Any, size: str) -> None:
    path = voc["annotations"] / "2008_000003.xml"
    path.write_text(f"<annotation><size>{size}</size></annotation>")
    assert len(load("voc", **voc).records) == 2


def test_voc_flag_with_room_around_it_or_none_is_read(voc: Any) -> None:
    path = voc["annotations"] / "2008_000007.xml"
    text = VOC_LABELS.replace("<difficult>0</difficult>", "<difficult/>")
    text = text.replace("<difficult>1<", "<difficult> 1\n<")
    path.write_text(text, encoding="latin-1")
    assert load("voc", **voc).records[1].ignored.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("value", "says"),
    [(0, False), (1, True), (False, False), (True, True), (1.0, True), ("0", False), ("1", True),
     ("", False), (None, False)],
)  # fmt: skip
def test_flag_is_what_it_plainly_says(value: object, says: bool) -> None:
    assert flag(value) is says


@pytest.mark.parametrize("value", ["false", "no", " ", 2, -1, 0.5, float("nan"), [], [0], {}])
def test_flag_is_never_true_because_it_is_not_empty(value: object) -> None:
    with pytest.raises(ValueError, match="is neither 0 nor 1"):
        flag(value)


@pytest.mark.parametrize(
    "xyxy", [(1, 2, float("nan"), 4), (1, 2, float("inf"), 4), (5, 2, 3, 4), (1, 9, 3, 4)]
)
def test_box_of_an_own_format_that_is_none_is_refused(xyxy: Any) -> None:
    good = LabelledBox(xyxy=(1, 2, 3, 4), category_id=1)
    boxes = [good, LabelledBox(xyxy=xyxy, category_id=1)]
    with pytest.raises(ConfigError, match=r"^a.png: box 2 is \[.*\]: write left, top, right and "):
        make_record(image_id=1, file="a.png", size_hw=(9, 9), boxes=boxes)


def test_flag_and_category_of_an_own_format_are_read_as_they_are_meant() -> None:
    def record_of(**values: Any) -> Any:
        box = LabelledBox(**({"xyxy": (1, 2, 3, 4), "category_id": 1} | values))
        return make_record(image_id=1, file="a.png", size_hw=(9, 9), boxes=[box])

    assert record_of(ignored="0").ignored.tolist() == [False]
    for category_id in ("1", 1.5):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            record_of(category_id=category_id)
