"""One way in for every data set: a split's records, and the pixels of one image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from configs.errors import ConfigError
from configs.schema import DataConfig, SplitConfig
from data import scenes
from data.coco import read_coco
from data.folder import read_folder
from data.image_files import Listed, decode_rgb, did_you_mean, read_image_list
from data.kitti import read_kitti
from data.labels import LabelledBox, make_record
from data.records import ImageRecord, ImageSet
from data.voc import read_voc

_SCENE_FILE = re.compile(r"scene:(\d+):(\d+)")

# Which keys of a split a format reads; any other one that is set is a mistake.
_KEYS = {
    "coco": ("images", "annotations", "image_list"),
    "kitti": ("images", "annotations", "image_list"),
    "voc": ("images", "annotations", "image_list"),
    "folder": ("images", "image_list"),
    "scenes": ("num_scenes", "scene_seed"),
}


def load_images(data: DataConfig, split: str) -> ImageSet:
    """Return the images of a split in a fixed order: sizes, boxes and categories, no pixels.

    Sizes come from the image headers, for COCO from its JSON. Raises ConfigError, one line, if the
    split does not exist or anything it names is missing, unreadable or malformed.
    """
    if split not in data.splits:
        known = ", ".join(data.splits)
        raise ConfigError(
            f"data.splits: no split '{split}'{did_you_mean(split, data.splits)} "
            f"(the splits are {known})"
        )
    where = f"data.splits.{split}"
    source = data.splits[split]
    _refuse_other_keys(data, source, where)
    if data.format == "scenes":
        records, categories = _read_scenes(source, where)
    else:
        records, categories = _read_files(data, source, where)
    if not records:
        raise ConfigError(f"{where}: holds no image: name a split that does")
    return ImageSet(split=split, records=tuple(records), categories=categories)


def read_image(file: str) -> npt.NDArray[np.uint8]:
    """Return uint8 [H, W, 3] RGB of a path or `scene:<seed>:<index>`, without EXIF rotation.

    Raises ConfigError that names the file if it cannot be read.
    """
    if not file.startswith("scene:"):
        return decode_rgb(Path(file))
    match = _SCENE_FILE.fullmatch(file)
    if match is None:
        raise ConfigError(f"{file}: no built-in scene: write scene:<seed>:<index>")
    return scenes.render_scene(index=int(match[2]), seed=int(match[1])).image


def _refuse_other_keys(data: DataConfig, source: SplitConfig, where: str) -> None:
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


def _read_scenes(source: SplitConfig, where: str) -> tuple[list[ImageRecord], dict[int, str]]:
    seed, num_scenes = source.scene_seed, source.num_scenes
    if num_scenes is None:
        raise ConfigError(
            f"{where}.num_scenes: is not set: write how many scenes, or set data.format for files"
        )
    if seed is None:
        raise ConfigError(f"{where}.scene_seed: is not set: write a number of its own per split")
    return (
        [_scene_record(index, seed) for index in range(num_scenes)],
        dict(enumerate(scenes.CLASSES, start=1)),
    )


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
        image_id=index + 1, file=f"scene:{seed}:{index}", size_hw=(height, width), boxes=boxes
    )


def _read_files(
    data: DataConfig, source: SplitConfig, where: str
) -> tuple[list[ImageRecord], dict[int, str]]:
    listed = _image_list(source, where)
    if data.format == "folder":
        if source.images is None and listed is None:
            raise ConfigError(
                f"{where}.images: is not set: name the folder of the images, or an image_list"
            )
        images = None if source.images is None else _folder(source.images, f"{where}.images")
        return read_folder(images, listed), {}
    if source.images is None:
        raise ConfigError(f"{where}.images: is not set: name the folder of the images")
    images = _folder(source.images, f"{where}.images")
    if data.format == "coco":
        return read_coco(images, _coco_file(source.annotations, f"{where}.annotations"), listed)
    labels = None
    if source.annotations is not None:
        labels = _folder(source.annotations, f"{where}.annotations")
    read = read_kitti if data.format == "kitti" else read_voc
    return read(images, labels, listed, data.classes)


def _coco_file(annotations: str | None, key: str) -> Path:
    if annotations is None:
        raise ConfigError(
            f"{key}: is not set: name the COCO JSON file, or set data.format to folder "
            "for images without boxes"
        )
    if not Path(annotations).is_file():
        raise ConfigError(f"{key}: {annotations} is not a file: name the COCO JSON file")
    return Path(annotations)


def _image_list(source: SplitConfig, where: str) -> list[Listed] | None:
    if source.image_list is None:
        return None
    path = Path(source.image_list)
    if not path.is_file():
        raise ConfigError(f"{where}.image_list: {path} is not a file: name a text file of images")
    return read_image_list(path)


def _folder(path: str, key: str) -> Path:
    if not Path(path).is_dir():
        raise ConfigError(f"{key}: {path} is not a folder: correct the path")
    return Path(path)
