"""Images without labels: a folder, searched recursively, or a text file of paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError
from data.image_files import Listed, image_size_hw, list_images
from data.labels import make_record
from data.records import ImageRecord


def read_folder(images: Path | None, listed: Sequence[Listed] | None) -> list[ImageRecord]:
    """Return one record per image, numbered from 1: sorted by path, or in the list's order.

    Listed paths are relative to `images`, or to the working directory without it.
    Raises ConfigError if an image is missing or unreadable, or there is none.
    """
    if listed is not None:
        files = [_listed_file(images, line) for line in listed]
    else:
        assert images is not None
        files = list_images(images, recursive=True)
    return [
        make_record(image_id=number, file=str(file), size_hw=image_size_hw(file), boxes=())
        for number, file in enumerate(files, start=1)
    ]


def _listed_file(images: Path | None, line: Listed) -> Path:
    file = Path(line.name) if images is None else images / line.name
    if not file.is_file():
        base = "the working directory" if images is None else str(images)
        raise ConfigError(
            f"{line.where}: no image '{line.name}' in {base}: correct the list or the folder"
        )
    return file
