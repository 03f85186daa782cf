"""COCO JSON: `images`, `annotations`, `categories`; sizes and ids are the file's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import BadImageError, ConfigError, did_you_mean
from configs.given_files import is_file
from configs.plain_json import parse_json
from data.images.files import Listed, listed_inside, read_text, refuse_other_size
from data.images.formats import SplitSource
from data.images.labels import LabelledBox, finite, flag, make_record, skip_or_raise
from data.images.records import ImageRecord, SkippedImage

_MAX_INT64 = 2**63 - 1


def read_coco(
    source: SplitSource, skipped: list[SkippedImage] | None
) -> tuple[list[ImageRecord], dict[int, str]]:
    """Return the records in the file's (or the list's) order, and category id -> name.

    Crowds become ignored boxes. An image may be listed by id, file name or path.
    Raises ConfigError if the JSON is malformed or contradicts itself. An image that is missing,
    unreadable or of another size than the JSON says goes to `skipped`, or raises BadImageError
    without it.
    """
    images, annotations, listed = source.image_folder(), source.coco_file(), source.listed()
    content = _load(annotations)
    categories = _categories(content, annotations)
    files = _files(content, annotations)
    boxes = _boxes(content, annotations, files, categories)
    records = []
    for position, image_id in enumerate(_wanted(files, images, listed, annotations)):
        entry, where = files[image_id]
        path = listed_inside(images, Listed(_string(entry, "file_name", where), where))
        try:
            file, size_hw = _located(source, path, entry, where)
        except BadImageError as error:
            skip_or_raise(error, skipped, position)
            continue
        records.append(
            make_record(
                image_id=image_id, file=file, size_hw=size_hw, boxes=boxes.get(image_id, [])
            )
        )
    return records, categories


def list_coco(source: SplitSource) -> list[tuple[int, str]]:
    """Return image id and file name in the order of `read_coco`; no image is looked at."""
    annotations = source.coco_file()
    files = _files(_load(annotations), annotations)
    wanted = _wanted(files, source.named_folder(), source.listed(), annotations)
    return [(image_id, _string(files[image_id][0], "file_name", files[image_id][1]))
            for image_id in wanted]  # fmt: skip


def _files(
    content: Mapping[str, Any], annotations: Path
) -> dict[int, tuple[Mapping[str, Any], str]]:
    """Return image id -> its entry, and what to call that in a message."""
    files: dict[int, tuple[Mapping[str, Any], str]] = {}
    for entry, where in _entries(content, "images", annotations):
        image_id = _integer(entry, "id", where)
        if image_id in files:
            raise ConfigError(f"{where}: image id {image_id} is there twice: remove one")
        files[image_id] = (entry, where)
    return files


def _categories(content: Mapping[str, Any], annotations: Path) -> dict[int, str]:
    categories: dict[int, str] = {}
    for entry, where in _entries(content, "categories", annotations):
        category_id = _integer(entry, "id", where)
        if category_id in categories:
            raise ConfigError(f"{where}: category id {category_id} is there twice: remove one")
        categories[category_id] = _string(entry, "name", where)
    return categories


def _located(
    source: SplitSource, path: Path, entry: Mapping[str, Any], where: str
) -> tuple[str, tuple[int, int]]:
    """Return what to name an image by, and its size, which has to be the one that the JSON says."""
    said_hw = _size_hw(entry, where) if "height" in entry else None
    if not is_file(path):
        raise BadImageError(
            f"{where}: {path} does not exist: check the folder of the images",
            file=str(path), reason="no such image",
        )  # fmt: skip
    file, size_hw = source.located(path)
    refuse_other_size(file, size_hw, said_hw or size_hw)
    return file, size_hw


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = parse_json(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: line {error.lineno}: not valid JSON ({error.msg}): correct or fetch it again"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read ({error}): correct or fetch it again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a COCO file: it has to hold images and annotations")
    return content


def _entries(
    content: Mapping[str, Any], key: str, path: Path
) -> list[tuple[Mapping[str, Any], str]]:
    """Return the objects of one of the file's lists, each with what to call it in a message."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise ConfigError(
            f"{path}: has no list '{key}': name a COCO file of instances, such as "
            "instances_train2017.json"
        )
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise ConfigError(f"{path}: {key} entry {number}: not an object: correct it")
    return [(entry, f"{path}: {key} entry {number}") for number, entry in enumerate(entries, 1)]


def _boxes(
    content: Mapping[str, Any],
    path: Path,
    files: Mapping[int, object],
    categories: Mapping[int, str],
) -> dict[int, list[LabelledBox]]:
    boxes: dict[int, list[LabelledBox]] = {}
    for entry, where in _entries(content, "annotations", path):
        image_id = _integer(entry, "image_id", where)
        if image_id not in files:
            raise ConfigError(f"{where}: no image has the id {image_id}: add it to the images")
        category_id = _integer(entry, "category_id", where)
        if category_id not in categories:
            known = ", ".join(map(str, categories))
            raise ConfigError(
                f"{where}: no category has the id {category_id}: the categories are {known}"
            )
        boxes.setdefault(image_id, []).append(
            LabelledBox(
                xyxy=_box(entry, where),
                category_id=category_id,
                ignored=_is_crowd(entry, where),
                area_px=_area(entry, where),
            )
        )
    return boxes


def _box(entry: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    bbox, remedy = entry.get("bbox"), "write [x, y, width, height]"
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ConfigError(f"{where}: bbox is {bbox!r}: {remedy}")
    try:
        x, y, width, height = (finite(number) for number in bbox)
    except ValueError as error:
        raise ConfigError(f"{where}: bbox: {error}: {remedy}") from None
    for name, side in (("width", width), ("height", height)):
        if side < 0:
            raise ConfigError(f"{where}: bbox: {name} {side:g} is less than 0: {remedy}")
    return x, y, x + width, y + height


def _is_crowd(entry: Mapping[str, Any], where: str) -> bool:
    try:
        return flag(entry.get("iscrowd"))
    except ValueError as error:
        raise ConfigError(f"{where}: iscrowd: {error}: write 0 or 1") from None


def _area(entry: Mapping[str, Any], where: str) -> float | None:
    if entry.get("area") is None:
        return None
    try:
        area = finite(entry["area"])
        if area < 0:
            raise ValueError(f"{area:g} is less than 0")
    except ValueError as error:
        raise ConfigError(
            f"{where}: area: {error}: write it in px, or leave it out"
        ) from None  # fmt: skip
    return area


def _wanted(
    files: Mapping[int, tuple[Mapping[str, Any], str]],
    images: Path,
    listed: Sequence[Listed] | None,
    annotations: Path,
) -> list[int]:
    """Return the ids of the listed images, in the list's order; without a list, in the file's."""
    if listed is None:
        return list(files)
    names: dict[str, int] = {str(image_id): image_id for image_id in files}
    for image_id, (entry, where) in files.items():
        file_name = _string(entry, "file_name", where)
        names[str(images / file_name)] = image_id
        names[file_name] = image_id
    wanted: dict[int, None] = {}
    for line in listed:
        if line.name not in names:
            hint = did_you_mean(line.name, names) or ": list ids or file names"
            raise ConfigError(f"{line.where}: {annotations} has no image '{line.name}'{hint}")
        image_id = names[line.name]
        if image_id in wanted:
            raise ConfigError(f"{line.where}: image {image_id} is listed twice: remove one line")
        wanted[image_id] = None
    return list(wanted)


def _size_hw(entry: Mapping[str, Any], where: str) -> tuple[int, int]:
    height, width = _integer(entry, "height", where), _integer(entry, "width", where)
    if height < 1 or width < 1:
        raise ConfigError(f"{where}: size {width} x {height}: write the image's size in px")
    return height, width


def _integer(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MAX_INT64:
        raise ConfigError(f"{where}: {key} is {value!r}: write a whole number")
    return value


def _string(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {key} is {value!r}: write a text")
    return value
