"""Which images a split lists: names and ids alone, with no image opened and no scene rendered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from configs.errors import ConfigError, did_you_mean
from configs.own_code import is_own
from configs.schema.data import DataConfig
from data.images.coco import list_coco
from data.images.files import SUFFIXES, list_images, split_orientation
from data.images.formats import SplitSource, read_own
from data.images.records import SkippedImage

# Which keys of a split a format reads, one's own those of coco; any other one is a mistake.
_KEYS = {
    "coco": ("images", "annotations", "image_list", "augmentation"),
    "kitti": ("images", "annotations", "image_list", "augmentation"),
    "voc": ("images", "annotations", "image_list", "augmentation"),
    "folder": ("images", "image_list", "augmentation"),
    "scenes": ("num_scenes", "scene_seed", "augmentation"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedImage:
    """An image by its name inside the folder of the images; a list may leave its ending out."""

    name: str
    image_id: int | None
    """The data set's own id; None where images are numbered from 1, or of a bad image."""

    def is_in(self, file: str) -> bool:
        """Whether a file is this image, in whatever folder the data set lies there."""
        path = PurePath(self.name)
        tail = "/" + (path.name if path.is_absolute() else str(path))
        found = PurePath(split_orientation(file)[0])
        if f"/{found}".endswith(tail):
            return True
        return found.suffix.lower() in SUFFIXES and f"/{found.with_suffix('')}".endswith(tail)


def list_files(data: DataConfig, split: str) -> list[ListedImage]:
    """Return the images that `load_images` would read, in its order, bad ones included.

    Of a split with a list, only the list is looked at; of COCO only its JSON. Raises
    MissingDataError if what has to be looked at is not on this machine, ConfigError if it is wrong.
    """
    source = find_split(data, split)
    if is_own(data.format):
        return _listed_by_own(data.format, source)
    if data.format == "scenes":
        seed, num_scenes = source.scene_numbers()
        names = [scene_file(seed, index) for index in range(num_scenes)]
        return [ListedImage(name=name, image_id=None) for name in names]
    if data.format == "coco":
        return [ListedImage(name=name, image_id=image_id) for image_id, name in list_coco(source)]
    lines = source.listed()
    if lines is not None:
        return [ListedImage(name=line.name, image_id=None) for line in lines]
    folder = source.image_folder()
    files = list_images(folder, recursive=data.format == "folder")
    return [ListedImage(name=str(file.relative_to(folder)), image_id=None) for file in files]


def _listed_by_own(name: str, source: SplitSource) -> list[ListedImage]:
    """Ask the user's own format, for which all images are bad where only their list is."""
    skipped: list[SkippedImage] = []
    records = read_own(name, source, skipped)[0]
    listed = [
        ListedImage(name=_inside(source, record.file), image_id=record.image_id)
        for record in records
    ]
    for bad in sorted(skipped, key=lambda image: image.position):
        image = ListedImage(name=_inside(source, bad.file), image_id=None)
        listed.insert(bad.position, image)
    return listed


def _inside(source: SplitSource, file: str) -> str:
    """Return an image's name inside the folder of the images, the whole path if it is not there."""
    folder, path = source.settings.images, PurePath(file)
    if folder is not None and path.is_relative_to(folder):
        return str(path.relative_to(folder))
    return file


def find_split(data: DataConfig, split: str) -> SplitSource:
    """Return a split's settings. Raises ConfigError for keys that do not fit."""
    if split not in data.splits:
        known = ", ".join(data.splits)
        raise ConfigError(
            f"data.splits: no split '{split}'{did_you_mean(split, data.splits)} "
            f"(the splits are {known})"
        )
    source, where = data.splits[split], f"data.splits.{split}"
    if data.format != "scenes" and "splits" not in data.model_fields_set:
        raise ConfigError(
            f"data.splits: is not set: name each split's images (format {data.format})"
        )
    for key in source.model_dump(exclude_none=True):
        if key not in _KEYS.get(data.format, _KEYS["coco"]):
            formats = " or ".join(name for name, keys in _KEYS.items() if key in keys)
            raise ConfigError(
                f"{where}.{key}: not for format {data.format}: remove it, or set data.format to "
                f"{formats}"
            )
    if data.classes is not None and data.format in ("coco", "folder", "scenes"):
        raise ConfigError(
            f"data.classes: not for format {data.format}, only for kitti and voc: remove it"
        )
    if data.format == "folder" and source.images is None and source.image_list is None:
        raise ConfigError(
            f"{where}.images: is not set: name the folder of the images, or an image_list"
        )
    return SplitSource(settings=source, key=where, classes=data.classes, exif=data.exif)


def has_numbers(data: DataConfig) -> bool:
    """Whether images have no ids of their own, and are numbered from 1 in the listing's order."""
    return data.format != "coco" and not is_own(data.format)


def scene_file(seed: int, index: int) -> str:
    """Return the name of a scene, which stands where other formats have a path."""
    return f"scene:{seed}:{index}"
