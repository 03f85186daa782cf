"""Pascal VOC labels: one XML file per image, 1-based inclusive pixels."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from configs.errors import ConfigError
from data.images.files import read_bytes
from data.images.formats import SplitSource
from data.images.labels import (
    ClassNumbers,
    ImageLabels,
    LabelledBox,
    finite,
    flag,
    ordered,
    read_labelled_images,
)
from data.images.records import ImageRecord, SkippedImage

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def read_voc(
    source: SplitSource, skipped: list[SkippedImage] | None
) -> tuple[list[ImageRecord], dict[int, str]]:
    """Return the records, numbered from 1, and category id -> name (empty without labels).

    Difficult objects become ignored boxes. Raises ConfigError if a file is missing or unreadable;
    bad images go to `skipped` if it is a list.
    """
    labels = source.label_folder()
    known = ClassNumbers(source.classes, usual=CLASSES)
    if labels is None:
        return read_labelled_images(source, None, lambda path: ImageLabels(), skipped), {}
    records = read_labelled_images(
        source,
        lambda image: labels / f"{image.stem}.xml",
        lambda path: _read_labels(path, known),
        skipped,
    )
    known.check_found(labels)
    return records, known.categories


def _read_labels(path: Path, known: ClassNumbers) -> ImageLabels:
    try:
        root = ElementTree.fromstring(read_bytes(path))
    except ElementTree.ParseError as error:
        line, _ = error.position
        problem = str(error).partition(":")[0]
        raise ConfigError(f"{path}: line {line}: not valid XML ({problem}): correct it") from None
    except (LookupError, ValueError) as error:  # of an encoding that nobody knows
        raise ConfigError(f"{path}: not valid XML ({error}): correct it") from None
    boxes = []
    for number, node in enumerate(root.findall("object"), start=1):
        where = f"{path}: object {number}"
        name = (node.findtext("name") or "").strip()
        if not name:
            raise ConfigError(f"{where}: no <name>: add it")
        xyxy, category_id = _box(node, where), known.number_of(name, where)
        try:
            difficult = flag((node.findtext("difficult") or "").strip())
        except ValueError as error:
            raise ConfigError(f"{where}: difficult: {error}: correct it") from None
        if category_id is not None:
            boxes.append(LabelledBox(xyxy=xyxy, category_id=category_id, ignored=difficult))
    return ImageLabels(boxes=boxes, size_hw=_size_hw(root, path))


def _size_hw(root: ElementTree.Element, path: Path) -> tuple[int, int] | None:
    """Return the image's (height, width) in px; None where tools left it out, or wrote zeros."""
    sides = []
    for side in ("height", "width"):
        text = (root.findtext(f"size/{side}") or "0").strip()
        try:
            value = finite(text)
        except ValueError as error:
            raise ConfigError(f"{path}: size: {side}: {error}: correct it") from None
        if value < 0 or not value.is_integer():
            raise ConfigError(f"{path}: size: {side}: {text!r} is no size in px: correct it")
        sides.append(int(value))
    return (sides[0], sides[1]) if any(sides) else None


def _box(node: ElementTree.Element, where: str) -> tuple[float, float, float, float]:
    """Return 0-based (left, top, right, bottom); right and bottom then lie outside the box."""
    sides = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = node.findtext(f"bndbox/{side}")
        if text is None:
            raise ConfigError(f"{where}: no <bndbox> with <{side}>: add it")
        try:
            sides.append(finite(text.strip()))
        except ValueError as error:
            raise ConfigError(f"{where}: {side}: {error}: correct it") from None
    try:
        ordered(sides[0], sides[2], ("xmin", "xmax"))
        ordered(sides[1], sides[3], ("ymin", "ymax"))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}: correct it") from None
    return sides[0] - 1, sides[1] - 1, sides[2], sides[3]
