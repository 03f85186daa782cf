"""Boxes that were corrected since they were cached are refused, and taken over by one command."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from configs.config_files import load_config
from configs.errors import CacheError
from configs.schema.data import DataConfig
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations, write_annotations
from data.cache.cache_folder import CacheFolder
from data.cache.manifest_parts import SkippedInfo
from extract.cli import extract_features
from extract.detector.freshness import refuse_old_boxes, refuse_stale_cache
from tests.support.extraction import error_of
from tests.support.photos import Photos, coco_of, photos

__all__ = ["photos"]
pytestmark = pytest.mark.usefixtures("undrawn")

VOC = """<annotation><size><width>96</width><height>64</height><depth>3</depth></size>
<object><name>{name}</name><difficult>{ignored}</difficult><bndbox><xmin>{left}</xmin>
<ymin>5</ymin><xmax>24</xmax><ymax>34</ymax></bndbox></object></annotation>"""


def write_labels(
    folder: Path, format: str, *, left: int = 4, name: str = "cat", ignored: int = 0
) -> dict[str, str]:
    """Write the boxes of val's images, of which the second is as it is told; return its keys."""
    changed = {"left": left, "name": name, "ignored": ignored}
    usual = {"left": 4, "name": "cat", "ignored": 0}
    (folder / "val.txt").write_text("4\n5\n")
    for number, told in ((4, usual), (5, changed)):
        box = told | {"left": told["left"] + 1}
        (folder / f"{number}.xml").write_text(VOC.format(**box))
        kind = "DontCare" if told["ignored"] else told["name"]
        (folder / f"{number}.txt").write_text(
            f"{kind} 0 0 0 {told['left']}.0 4.0 24.0 34.0 1 1 1 1 1 1 1\n"
        )
    if format == "coco":
        content = coco_of([4, 5])
        content["categories"].append({"id": 2, "name": "dog"})
        content["annotations"][1] |= {
            "bbox": [left, 4, 24 - left, 30], "category_id": 1 + (name == "dog"), "iscrowd": ignored
        }  # fmt: skip
        (folder / "val.json").write_text(json.dumps(content))
        return {"annotations": str(folder / "val.json")}
    return {"annotations": str(folder), "image_list": str(folder / "val.txt")}


@pytest.fixture
def cached(photos: Photos, tmp_path: Path) -> CacheFolder:
    """A copy of val's cache, whose data set knows dogs too."""
    shutil.copytree(photos.features / "val", tmp_path / "features" / "val")
    cache = CacheFolder(tmp_path / "features" / "val")
    boxes = read_annotations(cache.path / ANNOTATIONS_NAME, "val")
    boxes = dataclasses.replace(boxes, categories={1: "cat", 2: "dog"})
    write_annotations(cache.path / ANNOTATIONS_NAME, boxes)
    return cache


def refuse(photos: Photos, cache: CacheFolder, format: str, keys: dict[str, str]) -> None:
    split = {"images": str(photos.root / "images"), **keys}
    classes = None if format in ("coco", "folder") else ["cat", "dog"]
    data = {"name": "photos", "format": format, "splits": {"val": split}, "classes": classes}
    config = load_config(str(photos.config)).model_copy(
        update={"data": DataConfig.model_validate(data)}
    )
    refuse_old_boxes(
        cache, read_annotations(cache.path / ANNOTATIONS_NAME, "val"), config, " --config c.yaml"
    )


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"left": 6}, "area 600 there, [6, 4, 18, 30] of category 1, area 540 now"),
        ({"name": "dog"}, "category 1, area 600 there, [4, 4, 20, 30] of category 2, area 600 now"),
        ({"ignored": 1}, "1, area 600 there, [4, 4, 20, 30] of category 1, area 600, ignored now"),
    ],
)
@pytest.mark.parametrize("format", ["coco", "voc", "kitti"])
def test_boxes_that_were_corrected_since_are_refused_in_every_format(
    photos: Photos, cached: CacheFolder, tmp_path: Path, format: str,
    change: dict[str, Any], difference: str,
) -> None:  # fmt: skip
    keys = write_labels(tmp_path, format)
    refuse(photos, cached, format, keys)
    write_labels(tmp_path, format, **change)
    with pytest.raises(CacheError) as caught:
        refuse(photos, cached, format, keys)
    told = str(caught.value)
    assert told.startswith(
        f"{cached.path / ANNOTATIONS_NAME}: holds other boxes than {keys['annotations']} "
        f"({photos.root / 'images' / '5.png'}: "
    )
    if format != "kitti" or "ignored" not in change:  # which has a class for what is ignored
        assert difference in told
    assert told.endswith(
        "run extract-features --split val --config c.yaml, which takes the boxes over and computes "
        "no feature that is there"
    )


def test_the_command_that_the_message_names_takes_the_boxes_over_without_a_detector(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    features = tmp_path / "features"
    shutil.copytree(photos.features, features)
    content = coco_of([4, 5])
    content["annotations"][0]["bbox"] = [5, 4, 19, 30]
    corrected = tmp_path / "val.json"
    corrected.write_text(json.dumps(content))
    config = photos.configure(tmp_path / "c.yaml")
    config.write_text(config.read_text().replace(str(photos.root / "val.json"), str(corrected)))
    error = error_of(photos.run("analysis", config=config, features=features))
    image = photos.root / "images/4.png"
    assert f"holds other boxes than {corrected} ({image}: [4, 4, 20, 30] of" in error
    settings = load_config(str(config))
    refuse_stale_cache(CacheFolder(features / "val"), "val", settings)  # as training: without boxes

    def refuse_to_load(*_: object) -> None:
        raise AssertionError("a detector was loaded")

    command = shlex.split(error.partition("run extract-features ")[2].partition(",")[0])
    monkeypatch.setattr("extract.detector.loading.load_detector", refuse_to_load)
    result = CliRunner().invoke(extract_features, [*command, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    cache = CacheFolder(features / "val")
    boxes = read_annotations(cache.path / ANNOTATIONS_NAME, "val")
    assert boxes.records[0].boxes_xyxy.tolist() == [[5, 4, 24, 34]]
    refuse_old_boxes(cache, boxes, settings, "")


def test_what_made_the_cache_is_part_of_the_command_that_takes_boxes_over(
    photos: Photos, cached: CacheFolder, tmp_path: Path
) -> None:
    keys = write_labels(tmp_path, "coco", left=6)
    made, usual = cached.manifest, cached.manifest.levels
    skipped = (SkippedInfo(file="6.png", reason="bad"),)
    for changes, told in (
        ({"dtype": "float32", "container": "hdf5"}, " --dtype float32 --container hdf5, which"),
        ({"levels": usual[2:4], "crop": 4}, " --crop 4 --levels 2,3, which takes the boxes over"),
        ({"image_limit": 2, "skipped": skipped}, " --limit 2 --skip-bad-images, which takes"),
        ({"decoded_from": "x"}, "for the cache that was compressed, then compress-features and"),
    ):
        cached.__dict__["manifest"] = dataclasses.replace(made, **changes)
        with pytest.raises(CacheError, match=re.escape(told)):
            refuse(photos, cached, "coco", keys)


def test_boxes_are_not_compared_where_the_data_set_says_nothing_of_them(
    photos: Photos, cached: CacheFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = write_labels(tmp_path, "voc", left=6)
    refuse(photos, cached, "voc", {"image_list": keys["image_list"]})
    refuse(photos, cached, "folder", {"image_list": keys["image_list"]})
    with caplog.at_level(logging.INFO):
        refuse(photos, cached, "coco", {"annotations": str(tmp_path / "not_here.json")})
    assert "its boxes could not be compared with the data set: data.splits.val" in caplog.text


def test_images_that_are_not_here_are_counted_in_a_warning_and_the_others_compared(
    photos: Photos, cached: CacheFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = write_labels(tmp_path, "coco")
    (tmp_path / "images").mkdir()
    refuse(photos, cached, "coco", keys | {"images": str(tmp_path / "images")})
    assert "the boxes of 2 of its 2 images could not be compared" in caplog.text
    shutil.copy(photos.root / "images/5.png", tmp_path / "images")
    write_labels(tmp_path, "coco", left=6)
    with pytest.raises(CacheError, match="holds other boxes"):
        refuse(photos, cached, "coco", keys | {"images": str(tmp_path / "images")})
