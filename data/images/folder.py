"""Images without labels: a folder, searched recursively, or a text file of paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.errors import BadImageError
from data.images.files import Listed, list_images, listed_inside, missing_image
from data.images.formats import SplitSource
from data.images.labels import make_record, skip_or_raise
from data.images.records import ImageRecord, SkippedImage


def read_folder(
    source: SplitSource, skipped: list[SkippedImage] | None
) -> tuple[list[ImageRecord], dict[int, str]]:
    """Return one record per image, numbered from 1: sorted by path, or in the list's order.

    There are no categories. Listed paths are relative to the folder of the images, out of which
    none may lead, or to the working directory without it. An image that is missing or unreadable
    goes to `skipped`, or raises BadImageError without it; MissingDataError if there is none.
    """
    images = None if source.settings.images is None else source.image_folder()
    records: list[ImageRecord] = []
    for position, image in enumerate(_wanted(images, source.listed())):
        try:
            path = image if isinstance(image, Path) else _listed_file(images, image)
            file, size_hw = source.located(path)
        except BadImageError as error:
            skip_or_raise(error, skipped, position)
            continue
        records.append(make_record(image_id=len(records) + 1, file=file, size_hw=size_hw, boxes=()))
    return records, {}


def _wanted(images: Path | None, listed: Sequence[Listed] | None) -> Sequence[Listed | Path]:
    if listed is not None:
        return listed
    assert images is not None
    return list_images(images, recursive=True)


def _listed_file(images: Path | None, line: Listed) -> Path:
    file = Path(line.name) if images is None else listed_inside(images, line)
    if not file.is_file():
        raise missing_image(line, file, "the working directory" if images is None else str(images))
    return file
