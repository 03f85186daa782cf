"""From label files to records: boxes clipped and checked, classes numbered, images paired."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.errors import BadImageError, ConfigError, did_you_mean
from data.images.files import Listed, find_image, list_images, refuse_other_size
from data.images.formats import SplitSource
from data.images.records import ImageRecord, SkippedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledBox:
    """One box as its file gives it; `xyxy` in px, 0-based, right and bottom just outside."""

    xyxy: tuple[float, float, float, float]
    category_id: int
    ignored: bool = False
    area_px: float | None = None
    """Of the object's outline, if the file has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLabels:
    """What one label file says: boxes, and the image's (height, width) in px if it has them."""

    boxes: Sequence[LabelledBox] = ()
    size_hw: tuple[int, int] | None = None


def make_record(
    *, image_id: int, file: str, size_hw: tuple[int, int], boxes: Sequence[LabelledBox]
) -> ImageRecord:
    """Return the record of one image.

    As in torchvision's reference training, boxes are clipped to the image and those without area
    are dropped. Raises ConfigError for a box that is none: not finite, or ending before it begins.
    """
    height, width = size_hw
    xyxy = np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4)
    is_box = np.isfinite(xyxy).all(1) & (xyxy[:, 2:] >= xyxy[:, :2]).all(1)
    if not is_box.all():
        number = int(is_box.argmin())
        raise ConfigError(
            f"{file}: box {number + 1} is {xyxy[number].tolist()}: "
            "write left, top, right and bottom in px"
        )
    xyxy = np.clip(xyxy, 0.0, [width, height, width, height]).astype(np.float32)
    has_area = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    known = [box.area_px for box in boxes]
    return ImageRecord(
        image_id=image_id,
        file=file,
        height=height,
        width=width,
        # Some boxes without: all by their boxes, rather than by two measures.
        areas_px=None if None in known else np.array(known, dtype=np.float64)[has_area],
        boxes_xyxy=xyxy[has_area],
        category_ids=np.array([operator.index(box.category_id) for box in boxes], dtype=np.int64)[
            has_area
        ],
        ignored=np.array([flag(box.ignored) for box in boxes], dtype=np.bool_)[has_area],
    )


class ClassNumbers:
    """Class name -> category id, from 1 in order; also counts which names the labels hold."""

    def __init__(
        self, given: Sequence[str] | None, *, usual: Sequence[str], skipped: Sequence[str] = ()
    ) -> None:
        """Take the user's classes, else the format's usual ones, beside which `skipped` may occur.

        Raises ConfigError if the user's classes are none, or one is there twice.
        """
        self._given = given is not None
        self._skipped = tuple(skipped)
        self._found: Counter[str] = Counter()
        names = usual if given is None else given
        if not names:
            raise ConfigError("data.classes: is empty: name at least one class, or remove the key")
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ConfigError(f"data.classes: '{repeated[0]}' is there twice: remove one")
        self.names = tuple(names)
        self.categories = dict(enumerate(names, start=1))

    def number_of(self, name: str, where: str) -> int | None:
        """Return the category id of a name, None if it does not count.

        Raises ConfigError if no `data.classes` are given and the format does not know the name.
        """
        self._found[name] += 1
        if name in self.names:
            return self.names.index(name) + 1
        if not self._given and name not in self._skipped:
            hint = did_you_mean(name, (*self.names, *self._skipped))
            raise ConfigError(
                f"{where}: unknown class '{name}'{hint or ': name your classes in data.classes'}"
            )
        return None

    def check_found(self, folder: Path) -> None:
        """Raise ConfigError if the labels hold objects, but none of the user's classes."""
        if not self._given or not self._found or any(name in self._found for name in self.names):
            return
        found = ", ".join(f"{name} ({count})" for name, count in sorted(self._found.items()))
        raise ConfigError(
            f"data.classes: none of {', '.join(self.names)} occurs in {folder}: "
            f"the labels there hold {found}"
        )


def read_labelled_images(
    source: SplitSource,
    label_file: Callable[[Path], Path] | None,
    read_labels: Callable[[Path], ImageLabels],
    skipped: list[SkippedImage] | None,
) -> list[ImageRecord]:
    """Return the records of images that have one label file each, numbered from 1.

    `label_file` maps an image to its labels; None: no boxes. Without a list, all images of the
    folder, sorted. Raises ConfigError if a label file is missing or wrong. An image that is
    missing, unreadable or of another size than its labels say goes to `skipped`, or raises
    BadImageError without it.
    """
    images, listed = source.image_folder(), source.listed()
    wanted: Sequence[Listed | Path] = list_images(images) if listed is None else listed
    records: list[ImageRecord] = []
    for position, image in enumerate(wanted):
        try:
            path = image if isinstance(image, Path) else find_image(images, image)
            # Labels first: a mistake in them is told even where the image is bad.
            labels = (
                ImageLabels() if label_file is None else _read(label_file(path), path, read_labels)
            )
            file, size_hw = source.located(path)
            refuse_other_size(file, size_hw, labels.size_hw or size_hw)
        except BadImageError as error:
            skip_or_raise(error, skipped, position)
            continue
        records.append(
            make_record(
                image_id=len(records) + 1, file=file, size_hw=size_hw, boxes=labels.boxes
            )
        )  # fmt: skip
    return records


def _read(labels: Path, image: Path, read_labels: Callable[[Path], ImageLabels]) -> ImageLabels:
    if not labels.is_file():
        raise ConfigError(
            f"{labels}: no such label file for {image}: add it, or leave the image out "
            "with an image_list"
        )
    return read_labels(labels)


def skip_or_raise(error: BadImageError, skipped: list[SkippedImage] | None, position: int) -> None:
    """Note a bad image of the split's listing in `skipped`; raise the error if that is None."""
    if skipped is None:
        raise error
    skipped.append(SkippedImage(position=position, file=error.file, reason=error.reason))


def finite(text: object) -> float:
    """Return a finite number. Raises ValueError otherwise, for the caller to say where.

    A text that is a number in plain digits is one, as in files that are all text anyway.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"{text!r} is not a number")
    if isinstance(text, str) and ("_" in text or not text.isascii()):
        raise ValueError(f"{text!r} is not a number")  # though Python would take it for one
    try:
        value = float(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def flag(value: object) -> bool:
    """Return what 0 and 1 say, be they numbers, text, or false and true; None says no.

    Raises ValueError otherwise, for the caller to say where: any other text is not empty, too.
    """
    if value is None or value in ("0", ""):
        return False
    if value == "1" or (isinstance(value, (int, float, np.bool_)) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"{value!r} is neither 0 nor 1")


def ordered(first: float, last: float, sides: tuple[str, str]) -> None:
    """Raise ValueError, for the caller to say where, if a box ends before it begins."""
    if last < first:
        raise ValueError(f"{sides[1]} {last:g} is less than {sides[0]} {first:g}")
