"""One way in for every data set: a split's records, pixels, and which images are bad."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from configs.errors import BadImageError, ConfigError
from configs.log_setup import bar_interval_s
from configs.own_code import is_own
from configs.schema.data import DataConfig
from data.images import scenes
from data.images.coco import read_coco
from data.images.files import decode_rgb, refuse_other_size, split_orientation
from data.images.folder import read_folder
from data.images.formats import Format, SplitSource, read_own
from data.images.kitti import read_kitti
from data.images.labels import LabelledBox, make_record, skip_or_raise
from data.images.listing import find_split, has_numbers, scene_file
from data.images.records import ImageFiles, ImageRecord, ImageSet, SkippedImage, hash_files
from data.images.views import is_view, split_view
from data.images.voc import read_voc

_SCENE_FILE = re.compile(r"scene:(\d+):(\d+)")


def read_scenes(
    source: SplitSource, skipped: list[SkippedImage] | None
) -> tuple[list[ImageRecord], dict[int, str]]:
    """Return a split of built-in scenes, numbered from 1, and their classes; none can be bad."""
    seed, num_scenes = source.scene_numbers()
    return (
        [_scene_record(index, seed) for index in range(num_scenes)],
        dict(enumerate(scenes.CLASSES, start=1)),
    )


FORMATS: dict[str, Format] = {
    "coco": read_coco,
    "kitti": read_kitti,
    "voc": read_voc,
    "folder": read_folder,
    "scenes": read_scenes,
}
"""How each `data.format` is read; all keep the contract that one's own has to keep."""


def load_images(data: DataConfig, split: str, *, skip_bad: bool = False) -> ImageSet:
    """Return the images of a split in a fixed order: sizes, boxes and categories, no pixels.

    Sizes come from the image headers, after `data.exif`; where labels say a size, too, it has to be
    that. An image that is missing, has no readable header or another size raises BadImageError, or
    is among the result's `skipped` with `skip_bad`.
    Raises ConfigError, one line, if the split does not exist or anything else it names is missing,
    unreadable or malformed.
    """
    images = read_images(data, split, skip_bad=skip_bad)
    refuse_empty(images)
    return images


def read_images(data: DataConfig, split: str, *, skip_bad: bool) -> ImageSet:
    """Return what `load_images` does, and no image at all where none can be used."""
    source = find_split(data, split)
    skipped: list[SkippedImage] = []
    noted = skipped if skip_bad else None
    if is_own(data.format):
        named, categories = read_own(data.format, source, noted)
        records = _located(source, named, noted)
    else:
        records, categories = FORMATS[data.format](source, noted)
    skipped.sort(key=lambda image: image.position)
    return ImageSet(
        split=split, records=tuple(records), categories=categories, skipped=tuple(skipped),
        folder=source.settings.images,
    )  # fmt: skip


def _located(
    source: SplitSource, records: Sequence[ImageRecord], skipped: list[SkippedImage] | None
) -> list[ImageRecord]:
    """Return an own format's records by `data.exif`, which it need not know of."""
    located = []
    places = list(islice(positions(skipped or ()), len(records)))
    for position, record in zip(places, records, strict=True):
        try:
            located.append(_as_seen(source, record))
        except BadImageError as error:
            skip_or_raise(error, skipped, position)
    return located


def _as_seen(source: SplitSource, record: ImageRecord) -> ImageRecord:
    is_said = is_view(record.file) or split_orientation(record.file)[1] is not None
    if is_said or record.file.startswith("scene:"):
        return record
    file, size_hw = source.located(Path(record.file))
    refuse_other_size(file, size_hw, (record.height, record.width))
    return replace(record, file=file)


def image_files(images: ImageSet) -> ImageFiles:
    """Return where a split's files lie now, and what other files of these names do not have."""
    files = list(dict.fromkeys(own_file(record.file) for record in images.records))
    if files[0].startswith("scene:"):
        return ImageFiles()
    here = ImageFiles(folder=_folder_of(files, images.folder))
    return replace(here, xxh3=hash_files(here.folder, [here.name_of(file) for file in files]))


def own_file(file: str) -> str:
    """Return the file of the image itself, of which the name may ask for a view or a turn."""
    return split_orientation(split_view(file)[0])[0]


def _folder_of(files: Sequence[str], named: str | None) -> str:
    """Return the named folder if all files lie in it, else the deepest one in which they all do."""
    if named is not None and all(file.startswith(f"{Path(named)}/") for file in files):
        return str(Path(named))
    try:
        return os.path.commonpath([str(Path(file).parent) for file in files])
    except ValueError:  # some are relative, some are not
        return ""


def refuse_empty(images: ImageSet) -> None:
    """Raise ConfigError if a split holds no image, or only such as cannot be used."""
    if images.records:
        return
    where = f"data.splits.{images.split}"
    if not images.skipped:
        raise ConfigError(f"{where}: holds no image: name a split that does")
    first = images.skipped[0]
    raise ConfigError(
        f"{where}: none of its {len(images.skipped)} images can be used "
        f"(the first: {first.file}: {first.reason}): correct the paths, or fetch the images again"
    )


def read_image(file: str) -> npt.NDArray[np.uint8]:
    """Return uint8 [H, W, 3] RGB of a path or `scene:<seed>:<index>`, as stored.

    A name with an orientation (`data.images.files`) gives it turned, one with the ending of a view
    (`data.images.views`) gives that view. Raises ConfigError that names the file if it cannot be
    read: BadImageError if it is to blame.
    """
    return np.require(_seen(file), requirements="W")


def _seen(file: str) -> npt.NDArray[np.uint8]:
    """Return `read_image`, in memory that is perhaps not to be written to."""
    own_file, view = split_view(file)
    image = _whole_image(own_file)
    return image if view is None else view.of(image, own_file)


def _whole_image(file: str) -> npt.NDArray[np.uint8]:
    if not file.startswith("scene:"):
        path, orientation = split_orientation(file)
        return decode_rgb(Path(path), orientation)
    match = _SCENE_FILE.fullmatch(file)
    if match is None:
        raise ConfigError(f"{file}: no built-in scene: write scene:<seed>:<index>")
    return scenes.render_scene(index=int(match[2]), seed=int(match[1])).image


def read_planned_image(
    file: str, size_hw: tuple[int, int], out: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Return `read_image`, in `out`, uint8 [H, W, 3], if that is given.

    Raises BadImageError if it is not of the size that the data set says.
    """
    image = _seen(file)
    height, width = image.shape[:2]
    refuse_other_size(file, (height, width), size_hw)
    if out is None:
        return np.require(image, requirements="W")
    # Into memory that is in use already: the pages of fresh memory take as long as decoding.
    np.copyto(out, image)
    return out


def _scene_record(index: int, seed: int) -> ImageRecord:
    """Render the scene for its boxes; its pixels are made again when they are wanted."""
    scene = scenes.render_scene(index=index, seed=seed)
    boxes = [
        LabelledBox(xyxy=(left, top, right, bottom), category_id=label)
        for (left, top, right, bottom), label in zip(
            scene.boxes_xyxy.tolist(), scene.labels.tolist(), strict=True
        )
    ]
    height, width = scene.image.shape[:2]
    return make_record(
        image_id=index + 1, file=scene_file(seed, index), size_hw=(height, width), boxes=boxes
    )


def first_images(images: ImageSet, limit: int | None) -> ImageSet:
    """Return the first `limit` images of the split's listing, bad ones counted."""
    if limit is None:
        return images
    skipped = tuple(image for image in images.skipped if image.position < limit)
    records = images.records[: limit - len(skipped)]
    return replace(images, records=records, skipped=skipped, limit=limit)


def readable_images(images: ImageSet, data: DataConfig, *, num_workers: int) -> ImageSet:
    """Return the images that can be decoded; the others join `skipped`, in the split's order.

    In formats without ids of their own, those that stay are numbered from 1 again: so the plan is
    the same as if the bad files were gone. Raises ConfigError if none stays.
    """
    if data.format == "scenes":
        return images  # they are rendered, not read
    numbered = has_numbers(data)
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
        images.records, positions(images.skipped), problems, strict=False
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


def positions(skipped: Sequence[SkippedImage]) -> Iterator[int]:
    """Places in the split's listing of the images that were not skipped."""
    taken = {image.position for image in skipped}
    return (position for position in count() if position not in taken)
