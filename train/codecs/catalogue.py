"""The codecs by the names that `model.name` gives them, ours and the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from configs.errors import ConfigError
from configs.own_code import is_own, load_own, own_code
from configs.schema.training import FUSED_PYRAMID, ModelConfig
from train.codecs.autoregressive import JointAutoregressive
from train.codecs.entropy.latent_coder import brings_tables
from train.codecs.factorized import FactorizedPrior
from train.codecs.fused_pyramid import FusedPyramid
from train.codecs.gaussian import ContextPrior
from train.codecs.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from train.codecs.layers.transforms import CodecSize, ContextSize, PyramidSize
from train.codecs.level_codec import LevelCodec

MODELS: dict[str, Callable[[CodecSize], LevelCodec]] = {
    "factorized_prior_specific_level": FactorizedPrior,
    "scale_hyperprior": ScaleHyperprior,
    "mean_scale_hyperprior": MeanScaleHyperprior,
    "joint_autoregressive": JointAutoregressive,
}


def build_codec(model: ModelConfig, num_channels: int, num_levels: int = 1) -> LevelCodec:
    """Return an untrained codec for maps of `num_channels` channels of `num_levels` levels.

    Raises ConfigError for a codec of the user's own that cannot be imported, takes no such options,
    fails, is no LevelCodec, or holds an entropy model without coding tables; for a fused pyramid
    of which nobody says which levels it codes.
    """
    if (model.name == FUSED_PYRAMID) != (model.pyramid is not None):
        raise ConfigError(
            "model.pyramid: is measured by train-level --level fused, and is for model.name "
            "fused_pyramid alone: remove it, and train with --level fused"
        )
    size = codec_size(model, num_channels, num_levels)
    codec = _own(model, size) if is_own(model.name) else _ours(model.name, size)
    codec.layer_by_layer = model.fast_cpu == "never"
    return codec


def _ours(name: str, size: CodecSize) -> LevelCodec:
    if name == FUSED_PYRAMID:
        return FusedPyramid(size)
    if size.context is not None and MODELS[name] is FactorizedPrior:
        return ContextPrior(size)  # one density everywhere would not heed what is known
    return MODELS[name](size)


def codec_size(model: ModelConfig, num_channels: int, num_levels: int = 1) -> CodecSize:
    """Return the widths and depths that every codec is made with.

    A fused pyramid has as many stages as its coarsest level needs, if those are more.
    """
    pyramid = None if model.pyramid is None else PyramidSize(**dict(model.pyramid))
    return CodecSize(
        num_channels=num_channels,
        n_hidden=model.n_hidden,
        n_channels=model.n_channels,
        stages=model.stages if pyramid is None else max(model.stages, pyramid.least_stages),
        num_levels=num_levels,
        context=None if model.context is None else ContextSize(**dict(model.context)),
        pyramid=pyramid,
    )


def _own(model: ModelConfig, size: CodecSize) -> LevelCodec:
    make = load_own(model.name, "model.name")
    signature = inspect.signature(make)
    try:
        signature.bind(size, **model.options)
    except TypeError as error:
        raise ConfigError(
            f"model.options: {model.options} do not fit {model.name}{signature}: {error}"
        ) from None
    if missing := sorted(getattr(make, "__abstractmethods__", ())):
        raise ConfigError(f"model.name: {model.name!r} is unfinished: write {', '.join(missing)}")
    with own_code(f"model.name: {model.name!r} cannot be made"):
        codec = make(size, **model.options)
    if not isinstance(codec, LevelCodec):
        raise ConfigError(
            f"model.name: {model.name!r} gives a {type(codec).__name__}: "
            "derive it from train.codecs.level_codec.LevelCodec"
        )
    if size.context is not None and not codec.takes_context:
        raise ConfigError(
            f"model.name: {model.name!r} takes no context: train it without --context, or let its "
            "four methods take the trail and say `takes_context = True`"
        )
    for module in codec.modules():
        brings_tables(module)
    return codec
