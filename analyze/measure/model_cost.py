"""What a codec costs to keep and to run: parameters, bytes, multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from data.reading.level_reader import LevelReader
from train.codecs.fused_pyramid import FusedPyramid
from train.codecs.layers.context_path import Context
from train.codecs.layers.transforms import ContextSize
from train.codecs.level_codec import LevelCodec


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCost:
    """One codec. A position is one of the level's own map, padded to the codec's stride."""

    parameters: int
    encoder_macs_per_position: float
    """Multiply-accumulates of compress: convolutions and matrix products, entropy coding left out.
    """
    decoder_macs_per_position: float
    seen_macs_per_position: float
    """The encoder's where a finer level sees this one: with what the decoder will have of it."""
    storage_bytes: int
    """Weights and standardisation as they are stored; coding tables follow from the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PyramidCost:
    """All levels of an image, by one codec each or by one codec for several."""

    models: int
    parameters: int
    storage_bytes: int
    encoder_macs_per_image: float
    """Mean over the images of a split."""
    decoder_macs_per_image: float


def model_cost(codec: LevelCodec) -> ModelCost:
    """Count a codec that is ready to code; it is run on a small map of zeros.

    torch's FlopCounterMode counts two operations for a multiply-accumulate, and nothing for
    elementwise ones: GDN's division and roots, rounding. These are the model's own, layer by layer:
    train.codecs.fast.fast_transforms needs a third of them on large maps.
    """
    # Latents of 4x4 positions at least: no padding in a hyperprior either.
    seen = codec.size.context
    side = math.lcm(4 * codec.stride, 1 if seen is None else seen.trail_stride)
    x = torch.zeros(1, codec.size.num_channels, side, side, device=codec.mean.device)
    context = () if seen is None else (_empty_context(seen, x),)
    with torch.no_grad(), _layer_by_layer(codec):
        with FlopCounterMode(display=False) as encoder:
            coded = codec.compress(x, *context)
        with FlopCounterMode(display=False) as decoder:
            codec.decompress(coded["strings"], coded["shape"], coded["size"], *context)
        with FlopCounterMode(display=False) as seen_encoder:
            codec.compress_for_finer(x, *context)
    return _cost(codec, encoder, decoder, seen_encoder, side)


def fused_cost(codec: FusedPyramid) -> ModelCost:
    """Count a codec of all levels; a position is one of the finest level, padded to its stride."""
    side = 4 * codec.stride
    maps = [
        torch.zeros(1, channels, side // stride, side // stride, device=codec.mean.device)
        for channels, stride in zip(
            codec.pyramid.num_channels, codec.pyramid.strides, strict=True
        )
    ]  # fmt: skip
    with torch.no_grad(), _layer_by_layer(codec):
        with FlopCounterMode(display=False) as encoder:
            coded = codec.compress(maps)
        with FlopCounterMode(display=False) as decoder:
            codec.decompress(**coded)
    return _cost(codec, encoder, decoder, encoder, side)  # no level sees it


@contextmanager
def _layer_by_layer(codec: LevelCodec) -> Iterator[None]:
    kept, codec.layer_by_layer = codec.layer_by_layer, True
    try:
        yield
    finally:
        codec.layer_by_layer = kept


def _cost(
    codec: LevelCodec,
    encoder: FlopCounterMode,
    decoder: FlopCounterMode,
    seen_encoder: FlopCounterMode,
    side: int,
) -> ModelCost:
    kept = [*codec.parameters(), codec.mean, codec.std]
    return ModelCost(
        parameters=sum(parameter.numel() for parameter in codec.parameters()),
        encoder_macs_per_position=encoder.get_total_flops() / 2 / side**2,
        decoder_macs_per_position=decoder.get_total_flops() / 2 / side**2,
        seen_macs_per_position=seen_encoder.get_total_flops() / 2 / side**2,
        storage_bytes=sum(tensor.numel() * tensor.element_size() for tensor in kept),
    )


def _empty_context(seen: ContextSize, x: torch.Tensor) -> Context:
    side = int(x.shape[-1])

    def zeros(channels: int, stride: int) -> torch.Tensor:
        return x.new_zeros(1, channels, side // stride, side // stride)

    return Context(
        zeros(seen.num_channels, seen.stride), zeros(seen.trail_channels, seen.trail_stride)
    )


def positions_per_image(reader: LevelReader, stride: int) -> float:
    """Return a level's positions, padded to the codec's `stride`, mean over images."""
    return float(np.prod(_padded(reader, stride), axis=1).mean())


def pyramid_cost(
    model_of: Mapping[int, str],
    costs: Mapping[str, ModelCost],
    strides: Mapping[str, int],
    readers: Mapping[int, LevelReader],
) -> PyramidCost:
    """Return the cost of coding every level; `model_of` is level -> name of its model.

    A model that serves several levels is kept once. `strides` are the codecs' own, in positions.
    """
    used = set(model_of.values())
    positions = {
        level: positions_per_image(readers[level], strides[name])
        for level, name in model_of.items()
    }
    return PyramidCost(
        models=len(used),
        parameters=sum(costs[name].parameters for name in used),
        storage_bytes=sum(costs[name].storage_bytes for name in used),
        encoder_macs_per_image=sum(
            costs[name].encoder_macs_per_position * positions[level]
            for level, name in model_of.items()
        ),
        decoder_macs_per_image=sum(
            costs[name].decoder_macs_per_position * positions[level]
            for level, name in model_of.items()
        ),
    )


def _padded(reader: LevelReader, stride: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return each sample's (H, W), int64 [n, 2], rounded up to multiples of `stride`."""
    return -(-reader.shapes[:, :2] // stride) * stride
