"""The manifest's companion: a split's images and boxes as COCO JSON, so analysis needs no more.

Boxes are written as float64 `x, y, width, height`, of which the float32 corners come back exactly.
Ignored boxes are `iscrowd` 1, which COCO's own evaluation counts as neither hit nor miss.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import xxhash

from configs.errors import CacheError, PassingError
from configs.given_files import regular
from configs.plain_json import is_finite, parse_json
from data.images.records import ImageRecord, ImageSet
from data.system.atomic_files import write_atomically

_SEAL = "xxh3"


ANNOTATIONS_NAME = "annotations.json"


def write_annotations(path: Path, images: ImageSet) -> None:
    """Write the companion file atomically, replacing one that is there."""
    # The cache's writer holds a lock, so that no other extraction writes the same companion now.
    content = _to_coco(images)
    sealed = {"info": {_SEAL: _seal_of(content)}} | content
    write_atomically(path, json.dumps(sealed, allow_nan=False).encode())


def read_annotations(path: Path, split: str) -> ImageSet:
    """Return what `write_annotations` wrote. Raises CacheError if it is missing or damaged."""
    try:
        content = parse_json(regular(path).read_bytes())
        info = content.pop("info", {})
        if info.get(_SEAL, seal := _seal_of(content)) != seal:
            raise ValueError("its checksum differs")
        return _from_coco(content, split)
    except FileNotFoundError:
        raise CacheError(f"{path}: no such file: run extract-features for this split") from None
    except OSError as error:
        raise PassingError.reading(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CacheError(
            f"{path}: damaged ({type(error).__name__}: {error}): "
            "run extract-features again to repair it"
        ) from None


def boxes_of(path: Path, *, with_paths: bool) -> bytes:
    """Return what a companion file says of boxes, as bytes to compare.

    `with_paths`: as it lies there, so that the paths of the images count, too.
    """
    data = regular(path).read_bytes()
    if with_paths:
        return data
    content = parse_json(data)
    images = [image["id"] for image in content["images"]]
    return json.dumps([images, content["annotations"], content["categories"]]).encode()


def boxes_sha256(images: ImageSet) -> str:
    """Return what changes with any box, category or image, and not with where the images lie."""
    content = _to_coco(images)
    for image in content["images"]:
        image["file_name"] = PurePath(image["file_name"]).name
    return hashlib.sha256(json.dumps(content, allow_nan=False).encode()).hexdigest()


def boxes_difference(there: ImageRecord, now: ImageRecord) -> str | None:
    """Say in words which box of an image another reading of it has otherwise, or None.

    Boxes, categories, ignore flags and areas count, their order does not.
    """
    before, after = (sorted(map(_shown, _boxes_of(record, 0))) for record in (there, now))
    if before == after:
        return None
    if len(before) != len(after):
        return f"{len(before)} boxes there, {len(after)} now"
    gone, new = Counter(before) - Counter(after), Counter(after) - Counter(before)
    return f"{min(gone)} there, {min(new)} now"


def _shown(box: Mapping[str, Any]) -> str:
    sides = ", ".join(f"{value:.6g}" for value in box["bbox"])
    ignored = ", ignored" if box["iscrowd"] else ""
    return f"[{sides}] of category {box['category_id']}, area {box['area']:.6g}{ignored}"


def _seal_of(content: dict[str, Any]) -> str:
    """Return the XXH3-64 of the content as JSON: a flipped digit of a box is still JSON."""
    return xxhash.xxh3_64_hexdigest(json.dumps(content, allow_nan=False).encode())


def _to_coco(images: ImageSet) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for record in images.records:
        annotations.extend(_boxes_of(record, len(annotations)))
    return {
        "images": [
            {
                "id": record.image_id,
                "file_name": record.file,
                "height": record.height,
                "width": record.width,
            }
            for record in images.records
        ],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in images.categories.items()],
    }


def _boxes_of(record: ImageRecord, num_before: int) -> list[dict[str, Any]]:
    corners = record.boxes_xyxy.astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    xywh = np.concatenate([corners[:, :2], sides], axis=1)
    areas = xywh[:, 2] * xywh[:, 3] if record.areas_px is None else record.areas_px
    return [
        {
            "id": num_before + row + 1,
            "image_id": record.image_id,
            "bbox": box,
            "area": float(areas[row]),
            "category_id": int(record.category_ids[row]),
            "iscrowd": int(record.ignored[row]),
        }
        for row, box in enumerate(xywh.tolist())
    ]


def _from_coco(content: dict[str, Any], split: str) -> ImageSet:
    """Build the images; ValueError, KeyError or TypeError if a value is not what it should be."""
    images, categories = content["images"], content["categories"]
    _require_kind(int, images, "id", "height", "width")
    _require_kind(str, images, "file_name")
    _require_kind(int, categories, "id")
    _require_kind(str, categories, "name")
    rows: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    names = {category["id"]: category["name"] for category in categories}
    if len(rows) != len(images) or len(names) != len(categories):
        raise ValueError("an id is there twice")
    for annotation in content["annotations"]:
        rows[annotation["image_id"]].append(annotation)
        if annotation["category_id"] not in names:
            raise ValueError(f"no category has the id {annotation['category_id']}")
        numbers = (*annotation["bbox"], annotation["area"])
        if len(numbers) != 5 or not all(map(is_finite, numbers)):
            raise ValueError(f"box and area of annotation {annotation['id']} are {numbers}")
        if annotation["iscrowd"] not in (0, 1):
            raise ValueError(f"iscrowd of annotation {annotation['id']} is no 0 or 1")
    return ImageSet(
        split=split,
        records=tuple(_record(image, rows[image["id"]]) for image in images),
        categories=names,
    )


def _require_kind(kind: type, entries: list[dict[str, Any]], *keys: str) -> None:
    for entry in entries:
        for key in keys:
            if type(entry[key]) is not kind:
                raise ValueError(f"{key} is {entry[key]!r}")


def _record(image: dict[str, Any], rows: list[dict[str, Any]]) -> ImageRecord:
    xywh = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return ImageRecord(
        image_id=image["id"],
        file=image["file_name"],
        height=image["height"],
        width=image["width"],
        boxes_xyxy=corners.astype(np.float32),
        category_ids=np.array([row["category_id"] for row in rows], dtype=np.int64),
        ignored=np.array([row["iscrowd"] for row in rows], dtype=np.bool_),
        areas_px=np.array([row["area"] for row in rows], dtype=np.float64),
    )
