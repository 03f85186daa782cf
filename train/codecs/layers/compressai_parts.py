"""What codecs take from CompressAI: its parts, without a start-up warning, and its likelihoods.

CompressAI's entropy models draw their own noise while training. Here the codec adds the noise, so
that several processes can share one draw (see TrainingNoise.noise_share), and so that it is known
what the transforms and the likelihood see; only the densities come from CompressAI.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

with warnings.catch_warnings():
    # compressai imports pytorch_msssim, whose use of torch.jit.script warns on every start.
    warnings.simplefilter("ignore", FutureWarning)
    from compressai._CXX import pmf_to_quantized_cdf
    from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
    from compressai.layers import GDN, MaskedConv2d
    from compressai.models import CompressionModel
    from compressai.models.utils import conv, deconv

__all__ = [
    "GDN",
    "CompressionModel",
    "EntropyBottleneck",
    "EntropyModel",
    "GaussianConditional",
    "MaskedConv2d",
    "conv",
    "deconv",
    "pmf_to_quantized_cdf",
]


def bottleneck_likelihood(bottleneck: Any, values: Tensor) -> Tensor:
    """Return the likelihoods, float32 [B, C, h, w], of values of that shape.

    Equals the second output of compressai's EntropyBottleneck.forward on the same values.
    """
    by_channel = values.transpose(0, 1)
    flat = by_channel.reshape(by_channel.shape[0], 1, -1)
    likelihood, _, _ = bottleneck._likelihood(flat)
    bounded: Tensor = bottleneck.likelihood_lower_bound(likelihood)
    return bounded.reshape(by_channel.shape).transpose(0, 1)


def gaussian_likelihood(conditional: Any, values: Tensor, scales: Tensor, means: Tensor) -> Tensor:
    """Return the likelihoods, float32, of values under N(means, scales) of the same shape.

    Equals the second output of compressai's GaussianConditional.forward on the same values.
    """
    bounded: Tensor = conditional.likelihood_lower_bound(
        conditional._likelihood(values, scales, means)
    )
    return bounded
