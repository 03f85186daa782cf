"""A codec on a whole validation split: whole maps, total error and bits over total positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.reading.companion import Companion
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch
from data.reading.whole_maps import whole_map_batches
from train.codecs.fused_pyramid import FusedPyramid
from train.codecs.layers.context_path import Context
from train.codecs.level_codec import LevelCodec
from train.context.beside import as_read
from train.machine.distributed import ALONE, World
from train.objective.pyramid_loss import pyramid_sums
from train.objective.rate_distortion import (
    AnyDistortion,
    distorted_sums,
    num_positions,
    rate_bits,
    square_error,
    squared_error,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """The val split at one moment; `channel_bits` [M] are bits per latent position, by channel."""

    loss: float
    mse: float
    bpp: float
    channel_bits: Tensor


@torch.inference_mode()
def validate(
    codec: LevelCodec,
    reader: LevelReader,
    batch_size: int,
    lmbda: float,
    device: str,
    *,
    distortion: AnyDistortion = square_error,
    world: World = ALONE,
    between_batches: Callable[[], None] = lambda: None,
    beside: Sequence[Companion] = (),
    in_context: Callable[[Batch], Batch] = as_read,
) -> Validation:
    """Evaluate on whole maps of the whole split; the ranks share the images out.

    `beside`: the maps and the trail that the codec sees, if it sees a coarser level, or what
    `in_context` makes them of.
    `between_batches` may raise to stop: the codec is then in eval mode, and otherwise as it was.
    """
    codec.eval()
    num_channels, num_latents = reader.info.num_channels, codec.num_latent_channels
    # Distorted sum, squared error, bits, positions, latent positions; then bits by channel.
    sums = torch.zeros(5 + num_latents, dtype=torch.float64, device=device)
    mine = range(world.rank, reader.num_samples, world.size)
    for batch in whole_map_batches(reader, batch_size, mine, beside):
        between_batches()
        x = batch.features.to(device).float()  # half the bytes to a GPU
        context = Context.of(in_context(batch).beside, device)
        output = codec(x) if context is None else codec(x, context=context)
        x_hat, likelihoods = output["x_hat"], output["likelihoods"]
        error = squared_error(x_hat, x, batch.sizes).sum()
        distorted = error
        if distortion is not square_error:
            distorted = distorted_sums(distortion, x_hat, x, batch).sum()
        y = likelihoods["y"]
        sums[0] += distorted
        sums[1] += error
        sums[2] += rate_bits(likelihoods).sum()
        sums[3] += num_positions(batch.sizes)
        sums[4] += y.shape[0] * y.shape[2] * y.shape[3]
        sums[5:] -= y.log2().sum((0, 2, 3))
    totals = world.add_up(sums).cpu()
    distorted_sum, squared, bits, positions, latent_positions = totals[:5].tolist()
    num_values = positions * num_channels
    bpp = bits / positions
    return Validation(
        loss=distorted_sum / num_values + lmbda * bpp,
        mse=squared / num_values,
        bpp=bpp,
        channel_bits=(totals[5:] / latent_positions).float(),
    )


@torch.inference_mode()
def validate_pyramid(
    codec: FusedPyramid,
    reader: LevelReader,
    batch_size: int,
    lmbda: float,
    device: str,
    *,
    distortions: Sequence[AnyDistortion],
    beside: Sequence[Companion],
    between_batches: Callable[[], None] = lambda: None,
) -> list[Validation]:
    """Evaluate a fused pyramid on whole maps of the whole split, level by level.

    The bits, and so BPP, are those of all levels, per position of the finest. `between_batches` may
    raise to stop, as in `validate`.
    """
    codec.eval()
    levels = len(codec.pyramid.strides)
    sums = torch.zeros(2, levels, dtype=torch.float64, device=device)
    bits = torch.zeros((), dtype=torch.float64, device=device)
    channel_bits = torch.zeros(codec.num_latent_channels, dtype=torch.float64, device=device)
    positions, latent_positions = [0] * levels, 0
    for batch in whole_map_batches(reader, batch_size, beside=beside):
        between_batches()
        maps = [each.to(device).float() for each in (batch.features, *batch.beside)]
        output = codec(maps)
        found = pyramid_sums(output, maps, batch.sizes, codec.pyramid.strides, distortions)
        sums += torch.stack([torch.stack(found.distorted), torch.stack(found.squared)])
        bits += found.bits
        positions = [a + b for a, b in zip(positions, found.positions, strict=True)]
        y = output["likelihoods"]["y"]
        channel_bits -= y.log2().sum((0, 2, 3))
        latent_positions += y.shape[0] * y.shape[2] * y.shape[3]
    bpp = float(bits) / positions[0]
    values = [
        count * channels
        for count, channels in zip(positions, codec.pyramid.num_channels, strict=True)
    ]
    return [
        Validation(
            loss=distorted / count + lmbda * bpp,
            mse=squared / count,
            bpp=bpp,
            channel_bits=(channel_bits.cpu() / latent_positions).float(),
        )
        for distorted, squared, count in zip(*sums.tolist(), values, strict=True)
    ]


def mean_validation(parts: Sequence[Validation], weights: Sequence[float]) -> Validation:
    """Return the weighted mean over levels, for a codec that serves or codes several."""
    shares = [weight / sum(weights) for weight in weights]
    pairs = list(zip(parts, shares, strict=True))
    channel_bits = torch.stack([part.channel_bits * share for part, share in pairs]).sum(0)
    return Validation(
        loss=sum(part.loss * share for part, share in pairs),
        mse=sum(part.mse * share for part, share in pairs),
        bpp=sum(part.bpp * share for part, share in pairs),
        channel_bits=channel_bits,
    )
