"""Which images a split lists: names and ids alone, with no image opened and no scene rendered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

from configs.errors import ConfigError, MissingDataError
from configs.schema.data import DataConfig, SplitConfig
from data.images.coco import list_coco
from data.images.files import SUFFIXES, Listed, did_you_mean, list_images, read_image_list

# Which keys of a split a format reads; any other one that is set is a mistake.
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
    """COCO's own id; None where images are numbered from 1."""

    def is_in(self, file: str) -> bool:
        """Whether a file is this image, in whatever folder the data set lies there."""
        path = PurePath(self.name)
        tail = "/" + (path.name if path.is_absolute() else str(path))
        found = PurePath(file)
        if f"/{found}".endswith(tail):
            return True
        return found.suffix.lower() in SUFFIXES and f"/{found.with_suffix('')}".endswith(tail)


def list_files(data: DataConfig, split: str) -> list[ListedImage]:
    """Return the images that `load_images` would read, in its order, bad ones included.

    Of a split with a list, only the list is looked at; of COCO only its JSON. Raises
    MissingDataError if what has to be looked at is not on this machine, ConfigError if it is wrong.
    """
    source, where = find_split(data, split)
    if data.format == "scenes":
        seed, num_scenes = scene_numbers(source, where)
        names = [scene_file(seed, index) for index in range(num_scenes)]
        return [ListedImage(name=name, image_id=None) for name in names]
    lines = image_lines(source, where)
    if data.format == "coco":
        images, annotations = named_folder(source, where), coco_file(source, where)
        found = list_coco(images, annotations, lines)
        return [ListedImage(name=name, image_id=image_id) for image_id, name in found]
    if lines is not None:
        return [ListedImage(name=line.name, image_id=None) for line in lines]
    folder = image_folder(source, where)
    files = list_images(folder, recursive=data.format == "folder")
    return [ListedImage(name=str(file.relative_to(folder)), image_id=None) for file in files]


def find_split(data: DataConfig, split: str) -> tuple[SplitConfig, str]:
    """Return a split's settings and their key. Raises ConfigError for keys that do not fit."""
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
        if key not in _KEYS[data.format]:
            formats = " or ".join(name for name, keys in _KEYS.items() if key in keys)
            raise ConfigError(
                f"{where}.{key}: not for format {data.format}: remove it, or set data.format to "
                f"{formats}"
            )
    if data.classes is not None and data.format not in ("kitti", "voc"):
        raise ConfigError(
            f"data.classes: not for format {data.format}, only for kitti and voc: remove it"
        )
    if data.format == "folder" and source.images is None and source.image_list is None:
        raise ConfigError(
            f"{where}.images: is not set: name the folder of the images, or an image_list"
        )
    return source, where


def scene_numbers(source: SplitConfig, where: str) -> tuple[int, int]:
    """Return seed and number of a split's scenes. Raises ConfigError if one is not set."""
    if source.num_scenes is None:
        raise ConfigError(
            f"{where}.num_scenes: is not set: write how many scenes, or set data.format for files"
        )
    if source.scene_seed is None:
        raise ConfigError(f"{where}.scene_seed: is not set: write a number of its own per split")
    return source.scene_seed, source.num_scenes


def scene_file(seed: int, index: int) -> str:
    """Return the name of a scene, which stands where other formats have a path."""
    return f"scene:{seed}:{index}"


def image_lines(source: SplitConfig, where: str) -> list[Listed] | None:
    """Return the lines of the split's image list, None if it has none."""
    if source.image_list is None:
        return None
    path = Path(source.image_list)
    if not path.is_file():
        raise MissingDataError(
            f"{where}.image_list: {path} is not a file: name a text file of images"
        )
    return read_image_list(path)


def named_folder(source: SplitConfig, where: str) -> Path:
    """Return the folder of the images, which may not be there. ConfigError if it is not set."""
    if source.images is None:
        raise ConfigError(f"{where}.images: is not set: name the folder of the images")
    return Path(source.images)


def image_folder(source: SplitConfig, where: str) -> Path:
    """Return the folder of the images. Raises MissingDataError if it is not there."""
    return existing_folder(named_folder(source, where), f"{where}.images")


def existing_folder(path: Path, key: str) -> Path:
    """Return a folder that a key names. Raises MissingDataError if it is not there."""
    if not path.is_dir():
        raise MissingDataError(f"{key}: {path} is not a folder: correct the path")
    return path


def coco_file(source: SplitConfig, where: str) -> Path:
    """Return the split's COCO file. Raises MissingDataError if it is not there."""
    key = f"{where}.annotations"
    if source.annotations is None:
        raise ConfigError(
            f"{key}: is not set: name the COCO JSON file, or set data.format to folder "
            "for images without boxes"
        )
    if not Path(source.annotations).is_file():
        raise MissingDataError(
            f"{key}: {source.annotations} is not a file: name the COCO JSON file"
        )
    return Path(source.annotations)
