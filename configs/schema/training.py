"""Settings of training: of a codec, and of a detector."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.schema.section import (
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    SchemaSection,
)


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
