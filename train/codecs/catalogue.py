"""The codecs by the names that `model.name` gives them."""

from __future__ import annotations

from configs.schema.model import ModelConfig
from train.codecs.autoregressive import JointAutoregressive
from train.codecs.factorized import FactorizedPrior
from train.codecs.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from train.codecs.layers.transforms import CodecSize
from train.codecs.level_codec import LevelCodec

MODELS: dict[str, type[FactorizedPrior] | type[ScaleHyperprior]] = {
    "factorized_prior_specific_level": FactorizedPrior,
    "scale_hyperprior": ScaleHyperprior,
    "mean_scale_hyperprior": MeanScaleHyperprior,
    "joint_autoregressive": JointAutoregressive,
}


def build_codec(model: ModelConfig, num_channels: int, num_levels: int = 1) -> LevelCodec:
    """Return an untrained codec for maps of `num_channels` channels of `num_levels` levels."""
    return MODELS[model.name](
        CodecSize(
            num_channels=num_channels,
            n_hidden=model.n_hidden,
            n_channels=model.n_channels,
            stages=model.stages,
            num_levels=num_levels,
        )
    )
