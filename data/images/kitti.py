"""KITTI object labels: one text file per image, one object a line, 0-based pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError
from data.images.files import read_text
from data.images.formats import SplitSource
from data.images.labels import (
    ClassNumbers,
    ImageLabels,
    LabelledBox,
    finite,
    ordered,
    read_labelled_images,
)
from data.images.records import ImageRecord, SkippedImage

CLASSES = ("Car", "Pedestrian", "Cyclist")

# Types of the benchmark's own labels that are no objects unless `data.classes` names them.
SKIPPED = ("Van", "Truck", "Person_sitting", "Tram", "Misc")

DONT_CARE = "DontCare"

_NUMBERS = ("truncated", "occluded", "alpha", "left", "top", "right", "bottom")


def read_kitti(
    source: SplitSource, skipped: list[SkippedImage] | None
) -> tuple[list[ImageRecord], dict[int, str]]:
    """Return the records, numbered from 1, and category id -> name (empty without labels).

    A DontCare region may hide an object of any class, so it becomes one ignored box per class.
    Raises ConfigError if a file is missing or unreadable, or a line is malformed; bad images go to
    `skipped` if it is a list.
    """
    labels = source.label_folder()
    known = ClassNumbers(source.classes, usual=CLASSES, skipped=SKIPPED)
    if labels is None:
        return read_labelled_images(source, None, lambda path: ImageLabels(), skipped), {}
    records = read_labelled_images(
        source,
        lambda image: labels / f"{image.stem}.txt",
        lambda path: _read_labels(path, known),
        skipped,
    )
    known.check_found(labels)
    return records, known.categories


def _read_labels(path: Path, known: ClassNumbers) -> ImageLabels:
    boxes: list[LabelledBox] = []
    for line_number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        where = f"{path}: line {line_number}"
        if len(fields) < 8:
            raise ConfigError(
                f"{where}: {len(fields)} fields, but a KITTI label has 15 (type, truncated, "
                "occluded, alpha, left, top, right, bottom, ...): correct the line"
            )
        xyxy = _box(fields, where)
        if fields[0] == DONT_CARE:
            boxes += [
                LabelledBox(xyxy=xyxy, category_id=category_id, ignored=True)
                for category_id in known.categories
            ]
            continue
        category_id = known.number_of(fields[0], where)
        if category_id is not None:
            boxes.append(LabelledBox(xyxy=xyxy, category_id=category_id))
    return ImageLabels(boxes=boxes)


def _box(fields: Sequence[str], where: str) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom); a type of two words would shift all columns."""
    numbers = {}
    for name, field in zip(_NUMBERS, fields[1:], strict=False):
        try:
            numbers[name] = finite(field)
        except ValueError as error:
            raise ConfigError(f"{where}: {name}: {error}: correct the line") from None
    left, top, right, bottom = (numbers[side] for side in _NUMBERS[3:])
    try:
        ordered(left, right, ("left", "right"))
        ordered(top, bottom, ("top", "bottom"))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}: correct the line") from None
    return left, top, right, bottom
