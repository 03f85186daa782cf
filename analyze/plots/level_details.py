"""What a codec does to one level: bits of its latent channels, values and maps before and after."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analyze.maps.map_source import MapSource, as_batch
from analyze.measure.context_chain import ContextChain
from data.reading.level_reader import LevelReader

_CLIPPED_SHARE = 0.001  # of a picture's values: a single outlier would leave the rest black


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentRate:
    """What each channel of one latent costs."""

    name: str
    """"y", or "z" for a hyperprior's."""
    bits_per_position: NDArray[Any]
    """float64 [M]: estimated bits per position of the level's own map. Over all latents they add
    up to the level's estimated BPP."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueHistogram:
    """Counts of a level's values in shared bins; what lies outside is in the outermost ones."""

    edges: NDArray[Any]
    """float64 [bins + 1], from the smallest to the largest value of the level in the cache."""
    before: NDArray[Any]
    """int64 [bins]: as cached."""
    after: NDArray[Any]
    """int64 [bins]: decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MapPictures:
    """One quantity of a map as three pictures on one scale, uint8 [H, W] each."""

    title: str
    before: NDArray[Any]
    after: NDArray[Any]
    difference: NDArray[Any]
    scale: float
    """Value of 255. 0 stands for 0, or for -scale where `is_signed`: then 0 is between 127, 128."""
    is_signed: bool


@torch.no_grad()
def latent_rates(
    codec: Any, reader: LevelReader, indices: Iterable[int], chain: ContextChain | None = None
) -> list[LatentRate]:
    """Return the rates of all latents over the samples `indices`, from the likelihoods.

    A contextual codec sees what `chain` decodes.
    `codec` is in eval mode (train.runs.checkpoint.load_codec), so the latents are the rounded ones
    that are sent. Raises ValueError if there are no samples.
    """
    device = next(codec.parameters()).device
    bits: dict[str, NDArray[Any]] = {}
    positions = 0
    for index in indices:
        maps = as_batch(reader.sample(index)).to(device)
        given = {} if chain is None else chain.given((index,))
        for name, likelihoods in codec(maps, **given)["likelihoods"].items():
            found = -likelihoods.double().log().sum((0, 2, 3)).cpu().numpy() / math.log(2)
            bits[name] = bits.get(name, 0.0) + found
        positions += maps.shape[-2] * maps.shape[-1]
    if not positions:
        raise ValueError("no samples to take the rates of")
    return [
        LatentRate(name=name, bits_per_position=total / positions) for name, total in bits.items()
    ]


def value_histogram(
    reader: LevelReader, after: MapSource, indices: Iterable[int], *, num_bins: int = 64
) -> ValueHistogram:
    """Return the histograms of the samples `indices` as cached and as in `after`.

    The edges come from the cache's statistics, so they are the same for all codecs of a level.
    """
    low = float(reader.statistics.minimum.min())
    high = float(reader.statistics.maximum.max())
    # A level of one value only would have bins of no width.
    edges = np.linspace(low, high if high > low else low + 1.0, num_bins + 1)
    counts = np.zeros((2, num_bins), dtype=np.int64)
    for index in indices:
        for row, values in enumerate((reader.sample(index), after.read(index))):
            inside = np.clip(np.asarray(values, dtype=np.float64), edges[0], edges[-1])
            counts[row] += np.histogram(inside, bins=edges)[0]
    return ValueHistogram(edges=edges, before=counts[0], after=counts[1])


def map_pictures(
    before: NDArray[Any], after: NDArray[Any], *, num_channels: int = 3
) -> list[MapPictures]:
    """Return pictures of one map, [H, W, C] before and after, each kind on one scale.

    First the mean of |x| over channels, whose difference is the mean of |after - before|; then the
    `num_channels` channels of the largest mean square before, signed, whose difference is
    after - before. White (255) is exceeded by one value in a thousand of before and after. Raises
    ValueError if the shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(f"maps of {before.shape} before and {after.shape} after")
    old, new = before.astype(np.float32), after.astype(np.float32)
    pictures = [
        _pictures(
            "mean |x| over channels",
            (np.abs(old).mean(2), np.abs(new).mean(2), np.abs(new - old).mean(2)),
            is_signed=False,
        )
    ]
    strongest = np.argsort(-np.square(old).mean((0, 1)), kind="stable")[:num_channels]
    pictures += [
        _pictures(
            f"channel {channel}",
            (old[..., channel], new[..., channel], (new - old)[..., channel]),
            is_signed=True,
        )
        for channel in strongest.tolist()
    ]
    return pictures


def _pictures(
    title: str, maps: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], *, is_signed: bool
) -> MapPictures:
    scale = float(np.quantile(np.abs(np.stack(maps[:2])), 1 - _CLIPPED_SHARE)) or 1.0
    first, second, third = (_as_bytes(values, scale, is_signed) for values in maps)
    return MapPictures(
        title=title,
        before=first,
        after=second,
        difference=third,
        scale=scale,
        is_signed=is_signed,
    )


def _as_bytes(values: NDArray[Any], scale: float, is_signed: bool) -> NDArray[Any]:
    share = values / scale
    if is_signed:
        share = (share + 1) / 2
    picture: NDArray[Any] = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return picture
