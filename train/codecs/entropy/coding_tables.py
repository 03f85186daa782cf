"""The distributions that latents are coded with, made so that every machine makes the same.

Encoder and decoder each make them from the weights. A count that differs by one between the two
ends in garbage, and float32 arithmetic does differ: between a GPU and a CPU, two kinds of
processor, two versions of PyTorch. So they are computed on the CPU in float64, whose last digits
(1e-16) hardly ever change a count of 2**-16, and quantiles are rounded to multiples of 2**-10.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from train.codecs.layers.compressai_parts import EntropyBottleneck, GaussianConditional

_QUANTILE_STEP = 2.0**-10
_FARTHEST = 1e5  # where CompressAI looks for quantiles too
_BISECTIONS = 64
_SCALES = (0.11, 256.0, 64)
"""Least and greatest standard deviation, and their number, as in CompressAI's models."""


def make_tables(model: Any) -> None:
    """Make the tables of an entropy model of CompressAI from its weights; other models have none.

    An EntropyBottleneck gets the quantiles of its densities too.
    """
    if isinstance(model, EntropyBottleneck):
        _make_bottleneck_tables(model)
    elif isinstance(model, GaussianConditional):
        _make_gaussian_tables(model)


@torch.no_grad()
def _make_bottleneck_tables(model: Any) -> None:
    exact = deepcopy(model).cpu().double()
    quantiles = _quantiles(exact)
    exact.quantiles.copy_(quantiles)
    exact.update(force=True)
    model.quantiles.copy_(quantiles)
    for name in ("_quantized_cdf", "_offset", "_cdf_length"):
        setattr(model, name, getattr(exact, name).to(model.quantiles.device))


def _quantiles(exact: Any) -> Tensor:
    """Return where the cumulative densities are the targets, float64 [C, 1, 3], by bisection."""
    target = exact.target.double()
    low = torch.full_like(exact.quantiles, -_FARTHEST)
    high = -low
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_below = exact._logits_cumulative(middle, stop_gradient=True) < target
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return torch.round(high / _QUANTILE_STEP) * _QUANTILE_STEP


def _make_gaussian_tables(model: Any) -> None:
    least, greatest, number = _SCALES
    exponents = torch.linspace(math.log(least), math.log(greatest), number, dtype=torch.float64)
    scale_table = exponents.exp().float()
    device = model.scale_table.device
    scales = scale_table.double()[:, None]
    reach = -model._standardized_quantile(model.tail_mass / 2)
    center = torch.ceil(scales * reach).int()
    length = 2 * center[:, 0] + 1
    longest = int(length.max())
    distance = (torch.arange(longest) - center).abs().double()
    upper = model._standardized_cumulative((0.5 - distance) / scales)
    lower = model._standardized_cumulative((-0.5 - distance) / scales)
    cdf = model._pmf_to_cdf(upper - lower, 2 * lower[:, :1], length, longest)
    model.scale_table = scale_table.to(device)
    model._quantized_cdf = cdf.to(device)
    model._offset = -center[:, 0].to(device)
    model._cdf_length = (length + 2).to(device)
