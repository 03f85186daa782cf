"""Settings of the codec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.schema.section import Positive, SchemaSection


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
