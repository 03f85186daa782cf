"""Leave the bad images of a split out before its plan is made: every image is decoded once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

from tqdm import tqdm

from configs.errors import BadImageError
from configs.log_setup import bar_interval_s
from data.images.loading import read_planned_image, refuse_empty
from data.images.records import ImageRecord, ImageSet, SkippedImage


def first_images(images: ImageSet, limit: int | None) -> ImageSet:
    """Return the first `limit` images of the split's listing, bad ones counted."""
    if limit is None:
        return images
    skipped = tuple(image for image in images.skipped if image.position < limit)
    records = images.records[: limit - len(skipped)]
    return replace(images, records=records, skipped=skipped, limit=limit)


def readable_images(images: ImageSet, *, num_workers: int, numbered: bool) -> ImageSet:
    """Return the images that can be decoded; the others join `skipped`, in the split's order.

    With `numbered`, those that stay are numbered from 1 again, as formats without ids of their own
    do: so the plan is the same as if the bad files were gone. Raises ConfigError if none stays.
    """
    with ThreadPoolExecutor(num_workers) as pool:
        problems = list(
            tqdm(
                pool.map(_problem_of, images.records), total=len(images.records), unit="image",
                desc=f"check {images.split}", dynamic_ncols=True, mininterval=bar_interval_s(),
                leave=os.isatty(2),
            )
        )  # fmt: skip
    skipped = list(images.skipped)
    kept: list[ImageRecord] = []
    for record, position, problem in zip(
        images.records, _positions(images.skipped), problems, strict=False
    ):
        if problem is None:
            kept.append(replace(record, image_id=len(kept) + 1) if numbered else record)
        else:
            skipped.append(SkippedImage(position=position, file=record.file, reason=problem))
    skipped.sort(key=lambda image: image.position)
    readable = replace(images, records=tuple(kept), skipped=tuple(skipped))
    refuse_empty(readable)
    return readable


def _problem_of(record: ImageRecord) -> str | None:
    try:
        read_planned_image(record.file, (record.height, record.width))
    except BadImageError as error:
        return error.reason
    return None


def _positions(skipped: Sequence[SkippedImage]) -> Iterator[int]:
    """Places in the split's listing of the images that were not skipped."""
    taken = {image.position for image in skipped}
    return (position for position in count() if position not in taken)
