"""Boxes that somebody else wrote beside a cache are checked where they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import CacheError
from data.cache.annotations import read_annotations, write_annotations
from data.images.records import ImageRecord, ImageSet

WRITTEN = ImageSet(
    split="val",
    records=(
        ImageRecord(
            image_id=7, file="a\udcff.jpg", height=40, width=60,
            boxes_xyxy=np.array([[1, 2, 11, 22]], dtype=np.float32),
            category_ids=np.array([3]), ignored=np.array([False]),
        ),
    ),
    categories={3: "disc"},
)  # fmt: skip

# Where, and what: text where a number belongs is never read as one, nor as true.
ODD = [
    ("images", {"id": "../../x"}), ("images", {"id": True}), ("images", {"height": "40"}),
    ("images", {"width": 1.5}), ("images", {"file_name": 3}),
    ("categories", {"id": "3"}), ("categories", {"name": None}),
    ("annotations", {"image_id": 8}), ("annotations", {"category_id": 4}),
    ("annotations", {"bbox": [1, 2, 3]}), ("annotations", {"bbox": ["1", 2, 3, 4]}),
    ("annotations", {"bbox": [1, 2, 3, float("nan")]}), ("annotations", {"bbox": "1234"}),
    ("annotations", {"area": "9"}), ("annotations", {"iscrowd": "0"}),
]  # fmt: skip


def read(folder: Path, content: Any) -> ImageSet:
    (folder / "annotations.json").write_text(json.dumps(content))
    return read_annotations(folder / "annotations.json", "val")


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """What is written, without its seal: anybody can make that anew."""
    write_annotations(tmp_path / "annotations.json", WRITTEN)
    found: dict[str, Any] = json.loads((tmp_path / "annotations.json").read_text())
    del found["info"]
    return found


def test_annotations_come_back_with_names_that_are_no_utf_8(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    (found,) = read(tmp_path, content).records
    assert (found.image_id, found.file) == (7, "a\udcff.jpg")
    np.testing.assert_array_equal(found.boxes_xyxy, WRITTEN.records[0].boxes_xyxy)


@pytest.mark.parametrize(("key", "changes"), ODD, ids=str)
def test_annotation_whose_value_cannot_be_is_damage_in_one_line(
    tmp_path: Path, content: dict[str, Any], key: str, changes: dict[str, Any]
) -> None:
    content[key][0].update(changes)
    with pytest.raises(CacheError, match=r"annotations\.json: damaged") as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["images", "categories"])
def test_id_that_is_there_twice_is_damage(
    tmp_path: Path, content: dict[str, Any], key: str
) -> None:
    content[key] *= 2
    with pytest.raises(CacheError, match="an id is there twice"):
        read(tmp_path, content)
