"""Settings of the features: the data set, the detector that makes them, how they are stored."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, PlainValidator, model_validator

from configs.schema.section import (
    Fraction,
    NonNegative,
    PathComponent,
    Positive,
    PositiveFloat,
    SchemaSection,
    SideFraction,
    ours_or_own,
)

FORMAT_NAMES = ("coco", "kitti", "voc", "folder", "scenes")

Container = Literal["zarr", "hdf5"]
StoredType = Literal["float16", "float32", "uint8"]
USUAL_TYPE: StoredType = "float16"

SCENES_BUILDER = "fasterrcnn_mobilenet_v2_fpn"
SCENES_WEIGHTS = "builtin:scenes"
DEFAULT_BUILDER = "fasterrcnn_resnet50_fpn"


class AugmentationConfig(SchemaSection):
    """More views of each image for the detector to see, beside the image itself: training splits.

    Codecs overfit the features of few images long before those of many.
    """

    flip: bool = True
    """Also each image mirrored left to right, and every other part."""
    crops: NonNegative = 4
    """Random parts of each image."""
    crop_scale: tuple[SideFraction, SideFraction] = (0.55, 0.9)
    """Range of a part's sides, as fractions of the image's."""
    brightness: Fraction = 0.2
    contrast: Fraction = 0.15
    saturation: Fraction = 0.2
    """Largest change of a part's light, as a fraction (torchvision's ColorJitter)."""
    seed: NonNegative = 0

    @model_validator(mode="after")
    def _range_is_ordered(self) -> AugmentationConfig:
        smallest, largest = self.crop_scale
        if smallest > largest:
            raise ValueError(f"crop_scale: {smallest} is more than {largest}: write [least, most]")
        return self


class SplitConfig(SchemaSection):
    """Where one split's images and labels are. Which keys are needed depends on `data.format`."""

    images: str | None = None
    """Folder of the images (coco, kitti, voc, folder)."""
    annotations: str | None = None
    """COCO JSON file, KITTI `label_2` folder, or VOC `Annotations` folder. None: no boxes."""
    image_list: str | None = None
    """Text file, one image (id, name or path) a line: a subset of `images`, in that order."""
    num_scenes: Positive | None = None
    """scenes only: how many scenes the split holds."""
    scene_seed: NonNegative | None = None
    """scenes only: which family of scenes; splits of different seeds share no scene."""
    augmentation: AugmentationConfig | None = None
    """More views of each image (`augmentation: {}` for the usual ones). None: the images alone."""


def _builtin_splits() -> dict[str, SplitConfig]:
    return {
        "train": SplitConfig(num_scenes=256, scene_seed=1),
        "val": SplitConfig(num_scenes=64, scene_seed=2),
        "test": SplitConfig(num_scenes=64, scene_seed=3),
    }


class DataConfig(SchemaSection):
    """The data set: its name (caches land in features/<name>/<split>), format and splits."""

    name: Annotated[PathComponent, Field(pattern=r"^[\w.-]+$")] = "scenes"
    format: Annotated[str, ours_or_own(*FORMAT_NAMES)] = "scenes"
    """What the files are, or your own `package.module:function` (see data.images.formats)."""
    splits: Annotated[dict[PathComponent, SplitConfig], Field(min_length=1)] = Field(
        default_factory=_builtin_splits
    )
    classes: list[str] | None = None
    """kitti, voc, own: names that count as objects, in label order. None: the format's usual."""
    exif: Literal["apply", "ignore", "refuse"] = "apply"
    """Images that EXIF says are to be turned: turn them upright, take them as stored, or refuse."""


class DetectorConfig(SchemaSection):
    """Which detector makes the features."""

    builder: str | None = None
    """torchvision builder, fasterrcnn_mobilenet_v2_fpn, or your own `package.module:factory`."""
    checkpoint: str | None = None
    """File with a state dict (bare, or under model, state_dict, model_state_dict)."""
    weights: str | None = None
    """torchvision weights by name (COCO_V1), or `random` for seeded random weights (tests)."""
    min_size: Positive | None = None
    max_size: Positive | None = None
    """Shorter and longer image side in px after resizing. None: the builder's own."""
    resize: tuple[Positive, Positive] | None = None
    """[height, width] in px: one fixed size for all images instead of min_size / max_size."""

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> DetectorConfig:
        if self.checkpoint is not None and self.weights is not None:
            raise ValueError("checkpoint and weights exclude each other: name one of them")
        return self


def _stored_types(value: object) -> object:
    """Check it here: of a union's own check the line would name its parts."""
    each = list(value.values()) if isinstance(value, dict) else [value]
    if not each or any(one not in get_args(StoredType) for one in each):
        known = ", ".join(get_args(StoredType))
        raise ValueError(f"is none of {known}, nor a split's name with one of them")
    return value


class CacheConfig(SchemaSection):
    """How features are stored."""

    container: Container = "zarr"
    dtype: Annotated[StoredType | dict[str, StoredType], PlainValidator(_stored_types)] = USUAL_TYPE
    """Of all splits, or for each one named: `{train: uint8, val: float16}`; others are float16.
    uint8: 8 bits, an affine code per channel, for training sets."""
    shard_megabytes: PositiveFloat = 128.0
    """Size of one shard in MiB; a shard holds at least one sample."""
    levels: Annotated[list[NonNegative], Field(min_length=1)] | None = None
    """Levels to store, finest first. None: all of them."""
    verify: Literal["auto", "on_open", "size"] = "auto"
    """When reading: check a shard's checksums when it is first touched (on_open), or its size and
    index only (size). auto: on_open on network file systems."""
    crop: Positive | None = None
    """For training sets: store of each map a random crop of at most this side, in feature
    positions. None: whole maps, which validation and analysis need."""

    def dtype_of(self, split: str) -> StoredType:
        """Return the dtype in which a split is stored."""
        return self.dtype if isinstance(self.dtype, str) else self.dtype.get(split, USUAL_TYPE)

    def names_dtype_of(self, split: str) -> bool:
        """Say whether somebody wrote it, for this split."""
        named = "dtype" in self.model_fields_set
        return named and (isinstance(self.dtype, str) or split in self.dtype)
