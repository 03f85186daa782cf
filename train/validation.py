"""A codec on a whole validation split: whole maps, total error and bits over total positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from data.reader import LevelReader
from data.whole_maps import whole_map_batches
from train.codec import LevelCodec
from train.objective import num_positions, rate_bits, squared_error


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """The val split at one moment; `channel_bits` [M] are bits per latent position, by channel."""

    loss: float
    mse: float
    bpp: float
    channel_bits: Tensor


@torch.inference_mode()
def validate(
    codec: LevelCodec, reader: LevelReader, batch_size: int, lmbda: float, device: str
) -> Validation:
    """Evaluate on whole maps of the whole split: total error and bits over total positions."""
    codec.eval()
    error = torch.zeros((), dtype=torch.float64, device=device)
    channel_bits = torch.zeros(codec.entropy_bottleneck.channels, device=device)
    bits = torch.zeros((), dtype=torch.float64, device=device)
    positions, latent_positions = 0, 0
    for batch in whole_map_batches(reader, batch_size):
        x = batch.features.to(device, torch.float32)
        output = codec(x)
        error += squared_error(output["x_hat"], x, batch.sizes).sum()
        bits += rate_bits(output["likelihoods"]).sum()
        likelihoods = output["likelihoods"]["y"]
        channel_bits -= likelihoods.log2().sum((0, 2, 3))
        positions += num_positions(batch.sizes)
        latent_positions += likelihoods.shape[0] * likelihoods.shape[2] * likelihoods.shape[3]
    mse = float(error) / (positions * reader.info.num_channels)
    bpp = float(bits) / positions
    return Validation(
        loss=mse + lmbda * bpp,
        mse=mse,
        bpp=bpp,
        channel_bits=channel_bits.cpu() / latent_positions,
    )
