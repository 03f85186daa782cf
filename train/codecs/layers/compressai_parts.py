"""The parts of CompressAI that the codecs are built from, imported without its start-up warning."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # compressai imports pytorch_msssim, whose use of torch.jit.script warns on every start.
    warnings.simplefilter("ignore", FutureWarning)
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
]
