"""The transforms of the codecs, layer by layer as in CompressAI, with a free number of stages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from train.codecs.layers.compressai_parts import GDN, MaskedConv2d, conv, deconv


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextSize:
    """What a codec sees of coarser levels: channels, and positions of its own level for each.

    Of the next coarser one its decoded maps; of that and all coarser ones that were coded for it,
    their latents (a trail).
    """

    num_channels: int
    stride: int
    trail_channels: int
    trail_stride: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PyramidSize:
    """The levels of a fused pyramid, finest first: channels, and positions of the finest for each.

    ValueError unless each stride is a power of 2 and greater than the one before, the first one 1.
    """

    num_channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        rising = all(finer < coarser for finer, coarser in pairwise(self.strides))
        powers = all(stride & (stride - 1) == 0 for stride in self.strides)
        if self.strides[0] != 1 or not rising or not powers:
            raise ValueError(f"strides {self.strides}: each has to be a greater power of 2, from 1")

    @property
    def least_stages(self) -> int:
        """Stride-2 stages to the coarsest level, and one behind it."""
        return self.strides[-1].bit_length()


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecSize:
    """How large a codec is: feature channels, N, M, stride-2 stages, levels that it serves.

    `context`: what it sees of coarser levels; None: nothing. `pyramid`: the levels that a fused
    pyramid codes, of which `num_channels` is the most that one has.
    """

    num_channels: int
    n_hidden: int
    n_channels: int
    stages: int = 4
    num_levels: int = 1
    context: ContextSize | None = None
    pyramid: PyramidSize | None = None


def pad_to_multiple(values: Tensor, multiple: int) -> Tensor:
    """Return [B, C, h, w] padded at the bottom and right, by replication, to a multiple."""
    below, right = -values.shape[-2] % multiple, -values.shape[-1] % multiple
    if below or right:
        return functional.pad(values, (0, right, 0, below), mode="replicate")
    return values


def analysis(num_channels: int, n_hidden: int, n_channels: int, stages: int) -> nn.Sequential:
    """Return g_a: `stages` 5x5 convolutions of stride 2 with GDN between them.

    [B, num_channels, H, W] -> [B, n_channels, H / 2**stages, W / 2**stages].
    """
    widths = (num_channels, *[n_hidden] * (stages - 1), n_channels)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [GDN(before)] if layers else []
        layers.append(conv(before, after))
    return nn.Sequential(*layers)


def synthesis(num_channels: int, n_hidden: int, n_channels: int, stages: int) -> nn.Sequential:
    """Return g_s, the mirror image of `analysis` with inverse GDN."""
    widths = (n_channels, *[n_hidden] * (stages - 1), num_channels)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [GDN(before, inverse=True)] if layers else []
        layers.append(deconv(before, after))
    return nn.Sequential(*layers)


def hyper_analysis(
    n_hidden: int, n_channels: int, activation: type[nn.ReLU] | type[nn.LeakyReLU]
) -> nn.Sequential:
    """Return h_a: [B, n_channels, h, w] -> [B, n_hidden, h / 4, w / 4]."""
    return nn.Sequential(
        conv(n_channels, n_hidden, stride=1, kernel_size=3),
        activation(inplace=True),
        conv(n_hidden, n_hidden),
        activation(inplace=True),
        conv(n_hidden, n_hidden),
    )


def scale_synthesis(n_hidden: int, n_channels: int) -> nn.Sequential:
    """Return h_s of the scale hyperprior: [B, n_hidden, h / 4, w / 4] -> scales [B, M, h, w]."""
    return nn.Sequential(
        deconv(n_hidden, n_hidden),
        nn.ReLU(inplace=True),
        deconv(n_hidden, n_hidden),
        nn.ReLU(inplace=True),
        conv(n_hidden, n_channels, stride=1, kernel_size=3),
        nn.ReLU(inplace=True),
    )


def mean_scale_synthesis(n_hidden: int, n_channels: int) -> nn.Sequential:
    """Return h_s with 2 M outputs: [B, n_hidden, h / 4, w / 4] -> [B, 2 M, h, w]."""
    between = n_channels * 3 // 2
    return nn.Sequential(
        deconv(n_hidden, n_channels),
        nn.LeakyReLU(inplace=True),
        deconv(n_channels, between),
        nn.LeakyReLU(inplace=True),
        conv(between, 2 * n_channels, stride=1, kernel_size=3),
    )


def entropy_parameters(n_channels: int, num_inputs: int) -> nn.Sequential:
    """Return the 1x1 network [B, num_inputs, h, w] -> scales and means [B, 2 M, h, w]."""
    widths = (num_inputs, n_channels * 10 // 3, n_channels * 8 // 3, 2 * n_channels)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.LeakyReLU(inplace=True)] if layers else []
        layers.append(nn.Conv2d(before, after, 1))
    return nn.Sequential(*layers)


class CausalConv2d(MaskedConv2d):  # type: ignore[misc]
    """The 5x5 context model: at each position it sees what comes earlier in raster order only.

    CompressAI's layer writes the masked weight back into the parameter on every call, which swaps
    its storage under optimisers, compiled graphs and inference mode; this one only multiplies.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the contexts [B, 2 M, h, w] of latents x [B, M, h, w]."""
        return functional.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)
