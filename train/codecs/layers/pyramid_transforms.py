"""The transforms of a fused pyramid: all levels into one latent, and all levels out of it.

Stage k of the analysis leads from the grid of 2**k positions of the finest level to the next one;
a level of that grid joins before it. Stage k of the synthesis leads back, and such a level leaves
behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from train.codecs.layers.compressai_parts import GDN, conv, deconv
from train.codecs.layers.transforms import CodecSize, PyramidSize

Run = Callable[[nn.Module, Tensor], Tensor]
"""(network, its input) -> its output, in whatever precision."""


class PyramidAnalysis(nn.Module):
    """g_a: `stages` 5x5 convolutions of stride 2, GDN between them, and levels joining on the way.

    A level and what came of the finer ones are channels side by side.
    """

    def __init__(self, size: CodecSize) -> None:
        super().__init__()
        assert size.pyramid is not None
        self._pyramid = size.pyramid
        self.stages = nn.ModuleList()
        for stage in range(size.stages):
            joins = _level_at(size.pyramid, stage)
            inputs = (size.n_hidden if stage else 0) + (
                0 if joins is None else size.pyramid.num_channels[joins]
            )
            layers = [conv(inputs, size.n_channels)]
            if stage < size.stages - 1:
                layers = [conv(inputs, size.n_hidden), GDN(size.n_hidden)]
            self.stages.append(nn.Sequential(*layers))

    def run(self, maps: Sequence[Tensor], run: Run) -> Tensor:
        """Return y [B, M, h, w] of standardised maps, padded to the latents' grid."""
        hidden: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            joins = _level_at(self._pyramid, number)
            parts = hidden if joins is None else [*hidden, maps[joins]]
            hidden = [run(stage, torch.cat(parts, 1) if len(parts) > 1 else parts[0])]
        return hidden[0]


class PyramidSynthesis(nn.Module):
    """g_s: `stages` 5x5 transposed convolutions with inverse GDN, and 1x1 ones from N to levels."""

    def __init__(self, size: CodecSize) -> None:
        super().__init__()
        assert size.pyramid is not None
        self._pyramid = size.pyramid
        self.stages = nn.ModuleList(
            nn.Sequential(deconv(inputs, size.n_hidden), GDN(size.n_hidden, inverse=True))
            for inputs in (size.n_channels, *[size.n_hidden] * (size.stages - 1))
        )
        self.heads = nn.ModuleList(
            nn.Conv2d(size.n_hidden, channels, 1) for channels in size.pyramid.num_channels
        )

    def run(self, y_hat: Tensor, run: Run) -> list[Tensor]:
        """Return standardised maps on the padded grids, finest first, of latents [B, M, h, w]."""
        maps: list[Tensor] = []
        hidden = y_hat
        for number, stage in enumerate(self.stages, start=1):
            hidden = run(stage, hidden)
            leaves = _level_at(self._pyramid, len(self.stages) - number)
            if leaves is not None:
                maps.insert(0, run(self.heads[leaves], hidden))
        return maps


def _level_at(pyramid: PyramidSize, stage: int) -> int | None:
    """Return the number of the level of 2**stage positions of the finest for one, if there is."""
    return pyramid.strides.index(2**stage) if 2**stage in pyramid.strides else None
