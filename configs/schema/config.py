"""Every setting of the three stages, typed, with its default. A YAML file fills this and no more.

Paths are relative to the working directory, as on the command line. Unknown keys are refused by
`configs.config_files`, which turns every validation error into one line.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCENES_BUILDER = "fasterrcnn_mobilenet_v2_fpn"
SCENES_WEIGHTS = "builtin:scenes"
DEFAULT_BUILDER = "fasterrcnn_resnet50_fpn"

Positive = Annotated[int, Field(strict=True, gt=0)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
NonNegative = Annotated[int, Field(strict=True, ge=0)]
SideFraction = Annotated[float, Field(strict=True, gt=0, le=1)]


class SchemaSection(BaseModel):
    """Base of all sections: immutable, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


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

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "scenes"
    format: Literal["coco", "kitti", "voc", "folder", "scenes"] = "scenes"
    splits: Annotated[dict[str, SplitConfig], Field(min_length=1)] = Field(
        default_factory=_builtin_splits
    )
    classes: list[str] | None = None
    """kitti, voc: names that count as objects, in label order. None: the format's usual classes."""


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


class CacheConfig(SchemaSection):
    """How features are stored."""

    container: Literal["zarr", "hdf5"] = "zarr"
    dtype: Literal["float16", "float32"] = "float16"
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


class ModelConfig(SchemaSection):
    """The codec of one level."""

    name: Literal[
        "factorized_prior_specific_level",
        "scale_hyperprior",
        "mean_scale_hyperprior",
        "joint_autoregressive",
    ] = "factorized_prior_specific_level"
    """How latents are coded: one density per channel; a Gaussian for each latent, from side
    information (its scale; its scale and mean); or from side information and earlier latents."""
    stages: Annotated[int, Field(strict=True, ge=1, le=4)] = 4
    """Stride-2 stages of the transforms: one latent stands for 2**stages positions in each
    direction. Fewer than 4 are for coarse levels."""
    n_hidden: Positive = 128
    """Channels between the transforms' convolutions (N in CompressAI)."""
    n_channels: Positive = 192
    """Channels of the latents y (M in CompressAI)."""
    fpn_channels_per_level: Positive = 256
    """Channels of the features, in and out."""


class OptimizerConfig(SchemaSection):
    """Adam for the transforms and the density model; the quantiles have an Adam of their own."""

    name: Literal["adam"] = "adam"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    clip_max_norm: PositiveFloat | None = 1.0
    """Largest global gradient norm; None: no clipping."""
    aux_learning_rate: PositiveFloat = 1.0e-3
    """Learning rate of the quantiles' optimiser (CompressAI's value)."""


class LrScheduleConfig(SchemaSection):
    """How the learning rate falls; without a schedule (`enabled: false`) it stays."""

    enabled: bool = True
    name: Literal["plateau", "cosine"] = "plateau"
    """plateau: times `factor` when `patience` validations brought no better loss. cosine: from
    `learning_rate` down to `min_lr` over all epochs (Loshchilov and Hutter 2017, no restarts)."""
    warmup_epochs: NonNegative = 0
    """cosine: rise linearly to `learning_rate` over so many epochs first."""
    factor: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.5
    patience: NonNegative = 8
    min_lr: Annotated[float, Field(strict=True, ge=0)] = 1.0e-6


class EarlyStoppingConfig(SchemaSection):
    """Stop when the validation loss has not fallen by `min_delta` for `patience` validations."""

    enabled: bool = True
    patience: Positive = 20
    min_delta: Annotated[float, Field(strict=True, ge=0)] = 1.0e-4


class TrainingConfig(SchemaSection):
    """One run of train-level. `lambda` weighs the rate: loss = MSE + lambda * BPP."""

    batch_size: Positive = 8
    epochs: Positive = 100
    learning_rate: PositiveFloat = 5.0e-5
    lmbda: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False, alias="lambda")] = 0.001
    crop: Positive | None = 64
    """Side of the random training crop in feature positions, smaller maps whole; None: no crop."""
    shuffle: Literal["full", "shards"] = "full"
    """full: over the whole split. shards: four shards at a time, for caches beyond memory."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the transforms (autocast); the entropy model is always float32. auto: bfloat16 where a few
    measured steps are at least a tenth faster with it; the run's record says which it was."""
    compile: bool = False
    """Compile the transforms with torch.compile (needs a C++ compiler on a CPU)."""
    cuda_graphs: bool = True
    """On a GPU, record a step and repeat it, instead of asking for each of its kernels again."""
    distortion: Literal["mse", "channel_weighted", "object_weighted"] = "mse"
    """object_weighted: positions near what the detector's dense head takes for an object count
    most; train-level then loads the detector of the configuration."""
    channel_weights: str = "variance"
    """For channel_weighted: `variance` (each channel's error over its variance in the cache) or a
    JSON file {"levels": {"0": [one weight a channel], ...}}. Weights are scaled to a mean of 1."""
    input_noise: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0.0
    """Gaussian noise on what the codec sees while training, in standard deviations of each channel;
    it still has to give the features without noise. Against overfitting few images."""
    cutmix: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    """Share of the maps of which a part is another image's while training (CutMix). Against
    overfitting few images."""
    level_weights: list[Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]] | None = (
        None
    )
    """--level random: how often a batch is of each level, finest first. None: equally often."""
    init_from: str | None = None
    """Folder of a run whose best model this one begins from (--init-from): of the same level,
    model and detector; its train cache, lambda and distortion may be others."""
    warm_start: bool = False
    """In a study: begin each lambda from the best model of the one before it (--warm-start)."""
    save_interval_s: Annotated[float, Field(strict=True, ge=0)] = 60.0
    """Checkpoints are written at most this often (seconds), and when a run ends or is stopped."""
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_schedule: LrScheduleConfig = LrScheduleConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    save_dir: str = "checkpoints/fpn_specific_level_compression"
    """Runs land in <save_dir>_level_<l>/run_<time>_...; --out replaces its parent folder."""
    random_level_save_dir: str = "checkpoints/fpn_random_level_compression"
    """Where the runs of --level random land; --out replaces its parent folder."""
    seed: NonNegative = 0


class ValidationConfig(SchemaSection):
    """How the val split is used while training."""

    interval: Positive = 1
    """Validate every so many epochs (and after the last)."""
    num_samples: NonNegative = 4
    """Fixed val samples that level_analysis follows through the epochs."""


class DetectorTrainingConfig(SchemaSection):
    """train-detector: torchvision's own recipe (SGD, warm-up, step decay)."""

    epochs: Positive = 26
    batch_size: Positive = 2
    learning_rate: PositiveFloat = 0.005
    momentum: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(strict=True, ge=0)] = 1.0e-4
    warmup_steps: NonNegative = 500
    lr_steps: list[Positive] = [16, 22]
    """Epochs after which the learning rate falls to a tenth."""
    horizontal_flip: bool = True
    boxes_per_image: Positive = 512
    """Region proposals per image that the box head learns from; 64 trains 3 times faster on CPU."""
    save_dtype: Literal["float16", "float32"] = "float32"
    """Of best_model.pth; float16 halves the file and still loads into a float32 model."""
    num_workers: NonNegative = 2
    save_dir: str = "checkpoints/detection"
    seed: NonNegative = 0


class Config(SchemaSection):
    """All settings. Only `data` and `detector` have to be named for a user's own data."""

    data: DataConfig = DataConfig()
    detector: DetectorConfig = DetectorConfig()
    cache: CacheConfig = CacheConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()
    detector_training: DetectorTrainingConfig = DetectorTrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _detector_fits_data(cls, raw: Any) -> Any:
        """Fill in the detector that goes with the data: ours for scenes, ResNet-50 otherwise."""
        if not isinstance(raw, dict):
            return raw
        data, detector = raw.get("data", {}), raw.get("detector", {})
        if not isinstance(data, dict) or not isinstance(detector, dict):
            return raw
        if data.get("format", "scenes") == "scenes":
            usual: dict[str, Any] = {"builder": SCENES_BUILDER, "min_size": 192, "max_size": 256}
            if detector.get("builder", SCENES_BUILDER) != SCENES_BUILDER:
                usual = {}
            elif detector.get("checkpoint") is None and detector.get("weights") is None:
                usual["checkpoint"] = SCENES_WEIGHTS
        else:
            usual = {"builder": DEFAULT_BUILDER}
        given = {key: value for key, value in detector.items() if value is not None}
        return {**raw, "detector": usual | given}
