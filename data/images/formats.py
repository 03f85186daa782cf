"""What a data set format is: given one split's settings, it returns records. Ours and one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import BadImageError, ConfigError, MissingDataError
from configs.own_code import load_own, own_code
from configs.schema.data import SplitConfig
from data.images.files import (
    UPRIGHT,
    Listed,
    oriented,
    read_header,
    read_image_list,
    swaps_sides,
)
from data.images.records import ImageRecord, SkippedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSource:
    """One split of the configuration. Errors name its key, such as `data.splits.val.images`."""

    settings: SplitConfig
    """images, annotations and image_list as they are written: paths, or None."""
    key: str
    """Where the settings stand, `data.splits.<split>`."""
    classes: Sequence[str] | None = None
    """`data.classes`: names that count as objects, in label order. None: the format's usual."""
    exif: str = "apply"
    """`data.exif`: what becomes of images that EXIF says are to be turned."""

    def located(self, path: Path) -> tuple[str, tuple[int, int]]:
        """Return what a record names an image by, and its (height, width) in px, by `data.exif`.

        The header alone is read. Raises BadImageError if the image is missing or unreadable, or is
        to be turned and may not be.
        """
        (height, width), orientation = read_header(path)
        if orientation == UPRIGHT:
            return str(path), (height, width)
        if self.exif == "ignore":
            return oriented(str(path), UPRIGHT), (height, width)
        if self.exif == "refuse":
            reason = f"is to be turned (EXIF orientation {orientation})"
            remedy = "turn its pixels, or set data.exif to apply or ignore"
            raise BadImageError(f"{path}: {reason}: {remedy}", file=str(path), reason=reason)
        size_hw = (width, height) if swaps_sides(orientation) else (height, width)
        return oriented(str(path), orientation), size_hw

    def named_folder(self) -> Path:
        """Return the folder of the images, which may not be there. ConfigError if it is not set."""
        if self.settings.images is None:
            raise ConfigError(f"{self.key}.images: is not set: name the folder of the images")
        return Path(self.settings.images)

    def image_folder(self) -> Path:
        """Return the folder of the images. Raises MissingDataError if it is not there."""
        return _existing_folder(self.named_folder(), f"{self.key}.images")

    def label_folder(self) -> Path | None:
        """Return the folder of the labels, None without. MissingDataError if it is not there."""
        if self.settings.annotations is None:
            return None
        return _existing_folder(Path(self.settings.annotations), f"{self.key}.annotations")

    def coco_file(self) -> Path:
        """Return the split's COCO file. Raises MissingDataError if it is not there."""
        key, named = f"{self.key}.annotations", self.settings.annotations
        if named is None:
            raise ConfigError(
                f"{key}: is not set: name the COCO JSON file, or set data.format to folder "
                "for images without boxes"
            )
        if not Path(named).is_file():
            raise MissingDataError(f"{key}: {named} is not a file: name the COCO JSON file")
        return Path(named)

    def listed(self) -> list[Listed] | None:
        """Return the lines of the split's image list, None if it has none."""
        if self.settings.image_list is None:
            return None
        path = Path(self.settings.image_list)
        if not path.is_file():
            raise MissingDataError(
                f"{self.key}.image_list: {path} is not a file: name a text file of images"
            )
        return read_image_list(path)

    def scene_numbers(self) -> tuple[int, int]:
        """Return seed and number of a split's scenes. Raises ConfigError if one is not set."""
        seed, num_scenes = self.settings.scene_seed, self.settings.num_scenes
        if num_scenes is None:
            raise ConfigError(
                f"{self.key}.num_scenes: is not set: write how many scenes, or set data.format "
                "for files"
            )
        if seed is None:
            raise ConfigError(
                f"{self.key}.scene_seed: is not set: write a number of its own per split"
            )
        return seed, num_scenes


Format = Callable[
    [SplitSource, list[SkippedImage] | None], tuple[list[ImageRecord], dict[int, str]]
]
"""(source, skipped) -> (records, categories): how a split is read, by us or by one's own function.

`source` is the split's settings. The records (`data.images.labels.make_record` makes one) come in
an order that is always the same, with ids of their own; categories are id -> name, none where there
are no boxes. An image that cannot be used is put into `skipped` with its place in the order, or
raises BadImageError where `skipped` is None; `data.images.labels.skip_or_raise` does either.
Pixels are not read here: `ImageRecord.file` is a path of an image that Pillow opens, as
`SplitSource.located` returns it with the size to which `data.exif` leads. `train-level`
asks again which images the split has, if the function can be imported there.
"""


def read_own(
    name: str, source: SplitSource, skipped: list[SkippedImage] | None
) -> tuple[list[ImageRecord], dict[int, str]]:
    """Return what the user's function `name` reads.

    Raises MissingDataError if it cannot be imported on this machine or misses a file, ConfigError
    if it fails, or returns something else than records and categories that belong together.
    """
    try:
        read: Format = load_own(name, "data.format")
    except ConfigError as error:
        raise MissingDataError(str(error)) from error
    shown = f"data.format: {name!r}"
    with own_code(f"{shown} fails ({source.key})"):
        try:
            result: Any = read(source, skipped)
        except FileNotFoundError as error:
            raise MissingDataError(f"{shown} misses a file ({source.key}): {error}") from error
    problem = _problem_of(result)
    if problem is not None:
        raise ConfigError(f"{shown} {problem} ({source.key}): mend it")
    return list(result[0]), dict(result[1])


def _problem_of(result: Any) -> str | None:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        return "does not return (records, categories)"
    records, categories = result
    ids: set[int] = set()
    for record in records:
        if not isinstance(record, ImageRecord):
            return f"returns a {type(record).__name__} where an ImageRecord belongs"
        if record.image_id in ids:
            return f"returns two images with the id {record.image_id}"
        ids.add(record.image_id)
        unknown = set(record.category_ids.tolist()) - categories.keys()
        if unknown:
            return f"returns boxes of the category {min(unknown)}, which has no name"
    return None


def _existing_folder(path: Path, key: str) -> Path:
    if not path.is_dir():
        raise MissingDataError(f"{key}: {path} is not a folder: correct the path")
    return path
