"""More views of a split's images for training: mirrored, and random parts in another light.

A view is a file name with an ending after W3C's Media Fragments URI: which part, mirrored or not,
and how brightness, contrast and saturation were changed, as in
`a.jpg#xywh=8,0,320,240&flip&bcs=1.1,0.9,1`. So a cache's manifest says by itself what each of its
samples shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from configs.errors import BadImageError, ConfigError
from configs.schema.data import AugmentationConfig
from data.images.records import ImageRecord, ImageSet

_ENDING = re.compile(
    r"#xywh=(\d+),(\d+),(\d+),(\d+)(&flip)?(?:&bcs=([\d.]+),([\d.]+),([\d.]+))?$", re.ASCII
)
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
_UNCHANGED = (1.0, 1.0, 1.0)
_DECIMALS = 3
_LARGEST_STEP = 10**15  # ids are int64; leaves room for thousands of views
_MIN_SIDE_PX = 16  # of a part: less is nothing to detect in


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A part of an image, `flip` left to right, with its light changed by three factors."""

    x: int
    y: int
    width: int
    height: int
    flip: bool = False
    light: tuple[float, float, float] = _UNCHANGED
    """Brightness, contrast and saturation, in that order; 1: as they are."""

    @property
    def ending(self) -> str:
        """What the image's file name gets."""
        factors = ",".join(f"{factor:g}" for factor in self.light)
        return (
            f"#xywh={self.x},{self.y},{self.width},{self.height}"
            + ("&flip" if self.flip else "")
            + (f"&bcs={factors}" if self.light != _UNCHANGED else "")
        )

    def of(self, image: NDArray[np.uint8], file: str) -> NDArray[np.uint8]:
        """Return the view, uint8 [height, width, 3]; BadImageError if the image is too small."""
        rows, columns = slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)
        part = image[rows, columns]
        if part.shape[:2] != (self.height, self.width):
            reason = f"is {image.shape[0]}x{image.shape[1]} px, too small for this part of it"
            raise BadImageError(f"{file}: {reason}: extract anew", file=file, reason=reason)
        if self.flip:
            part = part[:, ::-1]
        pixels: NDArray[np.uint8] = np.ascontiguousarray(part)
        if self.light == _UNCHANGED:
            return pixels
        picture = Image.fromarray(pixels)
        for enhancer, factor in zip(_ENHANCERS, self.light, strict=True):
            picture = enhancer(picture).enhance(factor)
        changed: NDArray[np.uint8] = np.array(picture, dtype=np.uint8)
        return changed

    def boxes(self, xyxy: NDArray[Any]) -> NDArray[Any]:
        """Return boxes of the image, float32 [N, 4], as the view shows them: clipped to it."""
        left, top, right, bottom = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4).T
        left, right = left - self.x, right - self.x
        if self.flip:
            left, right = self.width - right, self.width - left
        moved = np.stack([left, top - self.y, right, bottom - self.y], axis=1)
        largest = [self.width, self.height, self.width, self.height]
        clipped: NDArray[Any] = np.clip(moved, 0.0, largest).astype(np.float32)
        return clipped


def split_view(file: str) -> tuple[str, View | None]:
    """Return the image's own file, and which view of it the name asks for, if any."""
    found = _ENDING.search(file)
    if found is None:
        return file, None
    x, y, width, height = (int(found[group]) for group in range(1, 5))
    light = _UNCHANGED
    if found[6] is not None:
        light = (float(found[6]), float(found[7]), float(found[8]))
    view = View(
        x=x, y=y, width=width, height=height, flip=found[5] is not None, light=light
    )  # fmt: skip
    return file[: found.start()], view


def is_view(file: str) -> bool:
    """Say whether a file name asks for a view of an image rather than for the image."""
    return _ENDING.search(file) is not None


def with_views(images: ImageSet, augmentation: AugmentationConfig | None) -> ImageSet:
    """Return the images, then all mirrored ones, then the first part of each, the second, ...

    So neighbours in the cache show different images. View k of image i depends on the seed, i and k
    alone. Its id is k followed by i, padded with zeros: view 3 of image 42, of ids up to 119, is
    3042. Raises ConfigError if the ids are too long for that.
    """
    if augmentation is None:
        return images
    step = _id_step(images)
    rounds = [
        tuple(
            _record(record, view, number * step + record.image_id)
            for record, view in zip(images.records, views, strict=True)
        )
        for number, views in enumerate(_rounds(images.records, augmentation), start=1)
    ]
    return replace(
        images,
        records=sum(rounds, images.records),
        augmentation=augmentation.model_dump(mode="json"),
    )


def _id_step(images: ImageSet) -> int:
    """Return a power of ten that is larger than the distance of any two ids from each other."""
    ids = [record.image_id for record in images.records]
    step: int = 10 ** len(str(max(*map(abs, ids), max(ids) - min(ids))))
    if step > _LARGEST_STEP:
        raise ConfigError(
            f"data.splits.{images.split}.augmentation: image ids of {len(str(step)) - 1} digits "
            "leave no room for ids of further views: number the images anew"
        )
    return step


def _rounds(
    records: Sequence[ImageRecord], augmentation: AugmentationConfig
) -> Iterator[list[View]]:
    if augmentation.flip:
        yield [
            View(x=0, y=0, width=record.width, height=record.height, flip=True)
            for record in records
        ]
    for number in range(augmentation.crops):
        yield [_random_part(record, number, augmentation) for record in records]


def _random_part(record: ImageRecord, number: int, augmentation: AugmentationConfig) -> View:
    """Draw one part; every other one is mirrored, if any is."""
    random = np.random.default_rng([augmentation.seed, record.image_id % 2**64, number])
    scale = random.uniform(*augmentation.crop_scale)
    width, height = (_side(side, scale) for side in (record.width, record.height))
    x = int(random.integers(record.width - width + 1))
    y = int(random.integers(record.height - height + 1))
    brightness, contrast, saturation = (
        round(random.uniform(1 - most, 1 + most), _DECIMALS)
        for most in (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    )
    return View(
        x=x, y=y, width=width, height=height, flip=augmentation.flip and number % 2 == 1,
        light=(brightness, contrast, saturation),
    )  # fmt: skip


def _side(side_px: int, scale: float) -> int:
    return min(side_px, max(_MIN_SIDE_PX, round(side_px * scale)))


def _record(record: ImageRecord, view: View, image_id: int) -> ImageRecord:
    boxes = view.boxes(record.boxes_xyxy)
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return ImageRecord(
        image_id=image_id,
        file=record.file + view.ending,
        height=view.height,
        width=view.width,
        boxes_xyxy=boxes[has_area],
        category_ids=record.category_ids[has_area],
        ignored=record.ignored[has_area],
    )
