"""What a data set hands to the rest: images with their sizes, boxes and category names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from numpy.typing import NDArray

_READ_BYTES = 2**16


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
class ImageFiles:
    """Where a split's files lay, and what tells them from other files of the same names."""

    folder: str = ""
    """What their names are relative to; empty where names are whole, or are no files'."""
    xxh3: str = ""
    """XXH3-128 of names, sizes in bytes and parts of contents; empty where nobody took it."""

    def name_of(self, file: str) -> str:
        """Return an image's name inside the folder; an EXIF orientation of no effect is left out.

        Caches were made without such endings before, of the same pixels.
        """
        name = file.removeprefix(f"{self.folder.rstrip('/')}/") if self.folder else file
        return name.replace("#orientation=1", "")

    def difference_from(
        self, there: ImageFiles | None, *, before: Sequence[str], now: Sequence[str]
    ) -> str | None:
        """Say in words how the files `before` differ from those `now`, wherever they lie; or None.

        `there` is where they lay; None: nobody wrote it down, so it is what stands before a name.
        """
        names = [self.name_of(file) for file in now]
        there = there or self._lying_before(before[:1], names[:1])
        for name, file_before, file_now in zip(names, before, now, strict=True):
            if there.name_of(file_before) != name:
                return f"image list: {file_before} there, {file_now} now"
        if self._are_others(there, names):
            return f"images: other files of these names in {there.folder} than in {self.folder}"
        return None

    def _lying_before(self, files: Sequence[str], names: Sequence[str]) -> ImageFiles:
        for file, name in zip(files, names, strict=True):
            plain = ImageFiles().name_of(file)
            if self.xxh3 and plain.endswith(f"/{name}"):
                return ImageFiles(folder=plain.removesuffix(f"/{name}"))
        return ImageFiles()

    def _are_others(self, there: ImageFiles, names: Sequence[str]) -> bool:
        """Where no hash of then tells it, files do that are still where they were."""
        if self.folder == there.folder or not self.xxh3:
            return False
        if there.xxh3:
            return self.xxh3 != there.xxh3
        before = hash_files(there.folder, names)
        return bool(before) and before != hash_files(self.folder, names)


def hash_files(folder: str, names: Sequence[str]) -> str:
    """Return the XXH3-128 of files' names and sizes in bytes, and of the middles of sixteen.

    To read each of them would take hours. Empty where none of them is there.
    """
    digest, are_there = xxhash.xxh3_128(), False
    read = {(2 * part + 1) * len(names) // 32 for part in range(16)}
    for number, name in enumerate(names):
        with suppress(OSError), Path(folder, name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
            are_there = True
            if number in read:
                file.seek(max(0, size - _READ_BYTES) // 2)
                digest.update(file.read(_READ_BYTES))
    return digest.hexdigest() if are_there else ""


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
    folder: str | None = None
    """The folder of the images, as the settings name it; None: they name none."""
