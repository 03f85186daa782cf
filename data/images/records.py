"""What a data set hands to the rest: images with their sizes, boxes and category names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One image and its boxes. `file` is a path, or `scene:<seed>:<index>` for a built-in scene."""

    image_id: int
    file: str
    height: int
    width: int
    boxes_xyxy: NDArray[Any]
    """float32 [N, 4], px of the original image."""
    category_ids: NDArray[Any]
    """int64 [N], ids as in `ImageSet.categories`."""
    ignored: NDArray[Any]
    """bool [N]: crowds, difficult or DontCare regions; neither hit nor miss in evaluation."""
    areas_px: NDArray[Any] | None = None
    """float64 [N]: of the objects' outlines, by which COCO tells small from large; None: of the
    boxes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedImage:
    """An image that cannot be used: its place in the split's listing, from 0, and why not."""

    position: int
    file: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSet:
    """One split: its images in a fixed order, and category id -> name. No categories: no boxes."""

    split: str
    records: tuple[ImageRecord, ...]
    categories: dict[int, str]
    skipped: tuple[SkippedImage, ...] = ()
    """Bad images that were left out of `records`, in the split's order."""
    limit: int | None = None
    """Only so many images of the split's listing, from its start; None: all of them."""
    augmentation: dict[str, Any] | None = None
    """How further views of the images, which follow these, were drawn; None: there are none."""
