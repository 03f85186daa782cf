"""Settings of training: of a codec, and of a detector."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from configs.schema.section import (
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    SchemaSection,
    ours_or_own,
)

MODEL_NAMES = (
    "factorized_prior_specific_level",
    "scale_hyperprior",
    "mean_scale_hyperprior",
    "joint_autoregressive",
)
FUSED_PYRAMID = "fused_pyramid"
"""The model of `--level fused`, which codes all levels in one."""


class ContextConfig(SchemaSection):
    """What a codec sees of coarser levels; train-level fills it in from the runs of `--context`."""

    num_channels: Positive
    """Channels of the next coarser level."""
    stride: Positive
    """Positions of the level itself, in each direction, for one of the next coarser level."""
    trail_channels: Positive
    """Channels of the latents of all coarser levels in the chain of runs."""
    trail_stride: Positive
    """Positions of the level itself for one of those latents."""


class PyramidConfig(SchemaSection):
    """The levels that a fused pyramid codes, finest first; train-level measures them."""

    num_channels: tuple[Positive, ...]
    """Channels of each level."""
    strides: tuple[Positive, ...]
    """Positions of the finest level, in each direction, for one of each level."""


class ModelConfig(SchemaSection):
    """The codec of one level."""

    name: Annotated[str, ours_or_own(*MODEL_NAMES, FUSED_PYRAMID)] = MODEL_NAMES[0]
    """How latents are coded: one density per channel; a Gaussian for each latent, from side
    information (its scale; its scale and mean); or from side information and earlier latents.
    fused_pyramid: one latent for all levels (--level fused). Or a codec of your own,
    `package.module:Class` (see train.codecs.level_codec)."""
    options: dict[str, Any] = Field(default={})
    """Settings of a codec of your own: keyword arguments of its class."""
    stages: Annotated[int, Field(strict=True, ge=1, le=4)] = 4
    """Stride-2 stages of the transforms: one latent stands for 2**stages positions in each
    direction. Fewer than 4 are for coarse levels."""
    n_hidden: Positive = 128
    """Channels between the transforms' convolutions (N in CompressAI)."""
    n_channels: Positive = 192
    """Channels of the latents y (M in CompressAI)."""
    fpn_channels_per_level: Positive = 256
    """Channels of the features, in and out."""
    context: ContextConfig | None = None
    """What it sees of the decoded coarser levels; None: it codes its level alone. Not to be written
    by hand: train-level measures it."""
    pyramid: PyramidConfig | None = None
    """Of fused_pyramid: the levels that it codes. Not to be written by hand either."""
    fast_cpu: Literal["auto", "never"] = "auto"
    """auto: on a CPU, analysis and real coding run g_a and g_s by Winograd's algorithm where they
    are our layers, two to three times as fast. never: always as torch runs them. The same model
    either way; results differ by rounding."""

    @field_validator("options")
    @classmethod
    def _ours_have_none(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get("name", "")
        if options and name in (*MODEL_NAMES, FUSED_PYRAMID):
            raise ValueError(f"{name} has no options, as a codec of your own may: remove them")
        return options

    @property
    def trail_channels(self) -> int:
        """Channels of what a finer level sees: its latents, and those that it sees itself."""
        return self.n_channels + (0 if self.context is None else self.context.trail_channels)

    def architecture(self) -> dict[str, Any]:
        """Return what makes it another model: all settings but those of how it is computed."""
        return self.model_dump(exclude={"fast_cpu"})


DISTORTION_NAMES = ("mse", "channel_weighted", "object_weighted", "detector")


class DetectionLossConfig(SchemaSection):
    """The detector's own loss of a level, beside rate and distortion."""

    weight: PositiveFloat = 0.1
    from_epoch: Positive = 20
    """Training counts it from this epoch on; validation always, so that epochs compare."""


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
    """Of the transforms (autocast); the entropy model is always float32. auto: bfloat16 on CUDA
    devices of capability 8.0 or more and on processors with AMX-BF16 or AVX512-BF16, else float32;
    the run's record says which and why, and a run that goes on keeps it."""
    compile: Literal["auto", True, False] = "auto"
    """Compile the transforms with torch.compile (true needs a C++ compiler on a CPU). auto: on a
    GPU, where by an estimate the run is long enough to repay it; the run's record says whether and
    why, and a run that goes on keeps it."""
    context: list[str] = Field(default=[])
    """Run folders of the next coarser level: the codec sees that level as these models decode it.
    Of several, one is drawn for each sample. `--context` and `--coarse-to-fine` fill it in."""
    context_on_the_fly: bool = False
    """Decode the coarser levels of each batch while training (--context-on-the-fly), instead of
    storing once what is decoded of whole maps: where the disk has no room, on a GPU."""
    resident: Literal["auto", "never", "always"] = "auto"
    """auto: on a GPU, a level whose maps fit into half of the free memory is loaded once and lies
    there; others are streamed. never: always streamed. always: an error if it does not fit. The
    batches are the same to the bit; the log says which it was."""
    cuda_graphs: bool = True
    """On a GPU, record a step and repeat it, instead of asking for each of its kernels again."""
    distortion: Annotated[str, ours_or_own(*DISTORTION_NAMES)] = "mse"
    """object_weighted: positions near what the detector's dense head takes for an object count
    most. detector: the error as the detector's frozen heads see it. For both train-level loads the
    detector of the configuration. Or a function of your own,
    `package.module:name`: (x_hat, x), float32 [B, C, H, W] each, to the error of each element."""
    channel_weights: str = "variance"
    """For channel_weighted: `variance` (each channel's error over its variance in the cache) or a
    JSON file {"levels": {"0": [one weight a channel], ...}}. Weights are scaled to a mean of 1."""
    input_noise: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0.0
    """Gaussian noise on what the codec sees while training, in standard deviations of each channel;
    it still has to give the features without noise. Against overfitting few images."""
    quantization: Literal["noise", "mixed"] = "noise"
    """What stands for rounding while training. noise: latents with uniform noise, for both g_s and
    the entropy model (Balle et al. 2017). mixed: g_s gets rounded latents, the entropy model noisy
    ones (Minnen and Singh 2020): better where few bits are spent."""
    cutmix: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    """Share of the maps of which a part is another image's while training (CutMix). Against
    overfitting few images."""
    detection_loss: DetectionLossConfig | None = None
    """The detector's own loss, from the cache's boxes through its frozen heads. None: without."""
    level_weights: list[Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]] | None = (
        None
    )
    """--level random: how often a batch is of each level, finest first. None: equally often."""
    init_from: str | None = None
    """Folder of a run whose best model this one begins from (--init-from): of the same level,
    model and detector; its train cache, lambda and distortion may be others. builtin:scenes: the
    package's codecs for the built-in example."""
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

    @property
    def learnt_by(self) -> str:
        """The distortion, what is added to it, and mixed quantization, in a word."""
        added = "+detection_loss" if self.detection_loss else ""
        return self.distortion + added + ("+mixed" if self.quantization == "mixed" else "")

    @field_validator("detection_loss")
    @classmethod
    def _boxes_stay_in_their_image(
        cls, loss: DetectionLossConfig | None, info: ValidationInfo
    ) -> DetectionLossConfig | None:
        if loss is not None and info.data.get("cutmix"):
            raise ValueError(
                "cutmix puts parts of other images into maps, which their boxes do not follow: set "
                "training.cutmix to 0, or leave detection_loss out"
            )
        return loss


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
    lr_steps: list[Positive] = Field(default=[16, 22])
    """Epochs after which the learning rate falls to a tenth."""
    horizontal_flip: bool = True
    boxes_per_image: Positive = 512
    """Region proposals per image that the box head learns from; 64 trains 3 times faster on CPU."""
    save_dtype: Literal["float16", "float32"] = "float32"
    """Of best_model.pth; float16 halves the file and still loads into a float32 model."""
    num_workers: NonNegative = 2
    save_dir: str = "checkpoints/detection"
    seed: NonNegative = 0
