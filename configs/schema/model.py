"""Settings of the codec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from configs.schema.section import Positive, SchemaSection, ours_or_own

MODEL_NAMES = (
    "factorized_prior_specific_level",
    "scale_hyperprior",
    "mean_scale_hyperprior",
    "joint_autoregressive",
)


class ModelConfig(SchemaSection):
    """The codec of one level."""

    name: Annotated[str, ours_or_own(*MODEL_NAMES)] = MODEL_NAMES[0]
    """How latents are coded: one density per channel; a Gaussian for each latent, from side
    information (its scale; its scale and mean); or from side information and earlier latents. Or a
    codec of your own, `package.module:Class` (see train.codecs.level_codec)."""
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
    fast_cpu: Literal["auto", "never"] = "auto"
    """auto: on a CPU, analysis and real coding run g_a and g_s by Winograd's algorithm where they
    are our layers, two to three times as fast. never: always as torch runs them. The same model
    either way; results differ by rounding."""

    @field_validator("options")
    @classmethod
    def _ours_have_none(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get("name", "")
        if options and name in MODEL_NAMES:
            raise ValueError(f"{name} has no options, as a codec of your own may: remove them")
        return options

    def architecture(self) -> dict[str, Any]:
        """Return what makes it another model: all settings but those of how it is computed."""
        return self.model_dump(exclude={"fast_cpu"})
