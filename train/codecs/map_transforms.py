"""From feature maps to latents and back: standardised, padded, through g_a and g_s."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.codecs.layers.context_path import Context, ContextPath, Seen
from train.codecs.layers.transforms import CodecSize, analysis, pad_to_multiple, synthesis
from train.codecs.network_runner import NetworkRunner

Measure = Callable[[Tensor, Tensor], Tensor]
"""(x_hat, x), [B, C, H, W] each, x as it is stored -> what is measured of them."""

_MIN_STD = 1e-6  # a channel that never varies is passed on as its mean


class MapTransforms(NetworkRunner):
    """What a codec does around its entropy model.

    `mean` and `std` [S, C] are the caches' per-channel statistics, one row for each level that the
    codec serves, and belong to the weights. Maps are padded by replication to a multiple of
    `stride`.

    `g_a`: [B, C, H, W], H and W multiples of `stride` -> latents y [B, M, H / stride, W / stride].
    `g_s`: the way back. A codec of other transforms sets them anew.

    `beside`: of a codec with `size.context`, what brings the decoded coarser level into g_a, behind
    its first layer, and into g_s, before its last one. `see` makes of a context what is `seen`.
    """

    g_a: nn.Module
    g_s: nn.Module
    beside: ContextPath
    mean: Tensor
    std: Tensor
    size: CodecSize
    _level_row: int = 0
    _halves: Mapping[str, tuple[nn.Sequential, nn.Sequential]] = MappingProxyType({})

    def make_transforms(self, size: CodecSize) -> None:
        """Make g_a and g_s of that size, and a standardisation that changes nothing."""
        widths = (size.num_channels, size.n_hidden, size.n_channels, size.stages)
        self.g_a, self.g_s = analysis(*widths), synthesis(*widths)
        self.register_buffer("mean", torch.zeros(size.num_levels, size.num_channels))
        self.register_buffer("std", torch.ones(size.num_levels, size.num_channels))
        self.size = size
        if size.context is not None:
            assert isinstance(self.g_a, nn.Sequential) and isinstance(self.g_s, nn.Sequential)
            self.beside = ContextPath(size)
            # Between them the context comes in. In a mapping, where they are no modules again.
            self._halves = {
                "g_a": (self.g_a[:2], self.g_a[2:]),
                "g_s": (self.g_s[:-1], self.g_s[-1:]),
            }

    @property
    def stride(self) -> int:
        """Feature positions per latent, in each direction."""
        return int(2**self.size.stages)

    @property
    def num_latent_channels(self) -> int:
        """Channels M of the latents y."""
        return self.size.n_channels

    def set_standardisation(self, means: NDArray[Any], variances: NDArray[Any]) -> None:
        """Take the caches' per-channel means and variances, float64 [S, C], or [C] if S is 1.

        Raises ValueError for any other number of values.
        """
        shape = tuple(self.mean.shape)
        deviations = torch.from_numpy(np.sqrt(variances).reshape(shape))
        self.mean.copy_(torch.from_numpy(means.reshape(shape).copy()))
        self.std.copy_(deviations.clamp(min=_MIN_STD))

    def use_level(self, row: int) -> None:
        """Standardise with this row of `mean` and `std` from now on; IndexError if it is none."""
        if not 0 <= row < len(self.mean):
            raise IndexError(f"level row {row}: this codec has {len(self.mean)}")
        self._level_row = row

    def networks(self, names: Sequence[str]) -> list[nn.Module]:
        """Return the networks of those names as they are run: in parts where context comes in."""
        found: list[nn.Module] = []
        for name in names:
            found += self._halves.get(name, (getattr(self, name),))
        if self.size.context is not None:
            found += self.beside.children()
        return found

    def standardised(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return what g_a sees of maps x [B, C, H, W]: padded, and of mean 0 and deviation 1.

        It is computed in float32, whatever x is stored in. `dtype`: to what it is rounded on the
        way to memory, where nothing is learned of x; None: float32.
        """
        x = self._one_layout(pad_to_multiple(x, self.stride))
        scale = 1 / self._row(self.std)
        operands = -self._row(self.mean) * scale, x, scale
        if dtype is None or x.requires_grad:
            return torch.addcmul(*operands)
        # Autocast would round as well, in a pass of its own.
        return torch.addcmul(*operands, out=torch.empty_like(x, dtype=dtype))

    def see(self, context: Context | None, height: int, width: int) -> Seen | None:
        """Return what the codec sees of a context for maps of height x width positions.

        ValueError if it needs one and is given none, or has no use for it.
        """
        if (context is None) != (self.size.context is None):
            needs = "needs the decoded coarser level: give its context"
            raise ValueError(
                f"this codec {needs if context is None else 'sees no coarser level: give none'}"
            )
        if context is None:
            return None
        height, width = (-(-side // self.stride) * self.stride for side in (height, width))
        maps = self._one_layout(self.beside.standardised(context.maps, height, width))
        return Seen(
            prediction=self.transformed(self.beside.prediction_of_maps, maps),
            features=self.transformed(self.beside.features_of_maps, maps),
            trail=self.beside.placed_trail(context.trail, height, width),
        )

    def unforeseen(self, x: Tensor, seen: Seen | None) -> Tensor:
        """Return what maps x [B, C, H, W] hold beyond their prediction, float32: g_a sees that."""
        if seen is None:
            return x
        height, width = x.shape[-2:]
        foreseen = seen.prediction[..., :height, :width]
        return torch.addcmul(x.float(), foreseen, self._row(self.std), value=-1)

    def latents(self, x: Tensor, seen: Seen | None = None) -> Tensor:
        """Return y, float32 [B, M, h, w], of maps x [B, C, H, W], as in eval mode."""
        x = self.unforeseen(x, seen)
        first = self.g_a if seen is None else self._halves["g_a"][0]
        if (fast := self._fast_transform(first, x)) is None:
            return self.analysed(self.standardised(x), seen)
        scale = 1 / self.std[self._level_row]
        before = torch.stack([scale, -self.mean[self._level_row] * scale])
        height, width = (-(-side // self.stride) for side in x.shape[-2:])
        domain = height * self.stride, width * self.stride
        if seen is None:
            return fast(x, before=before, domain=domain, size=(height, width))
        hidden = fast(x, before=before, domain=domain, size=(domain[0] // 2, domain[1] // 2))
        return self._through(self._halves["g_a"][1], self._told(hidden, "to_analysis", seen))

    def analysed(self, standardised: Tensor, seen: Seen | None) -> Tensor:
        """Return y of what `standardised` gives of the `unforeseen`, layer by layer."""
        if seen is None:
            return self.transformed(self.g_a, standardised)
        first, others = self._halves["g_a"]
        hidden = self._told(self.transformed(first, standardised), "to_analysis", seen)
        return self._through(others, hidden)

    def restored(self, y_hat: Tensor, height: int, width: int, seen: Seen | None = None) -> Tensor:
        """Return x_hat, float32 [B, C, height, width], of latents [B, M, h, w]."""
        last, values = self._last_of_synthesis(y_hat, seen)
        if (fast := self._fast_transform(last, values)) is None:
            return _undone(*self._cropped(last, values, height, width, seen))
        after = torch.stack([self.std[self._level_row], self.mean[self._level_row]])
        domain = int(values.shape[-2]), int(values.shape[-1])
        x_hat = fast(values, after=after, domain=domain, size=(height, width))
        if seen is None:
            return x_hat
        return x_hat.addcmul_(seen.prediction[..., :height, :width], self._row(self.std))

    def measured(
        self, y_hat: Tensor, x: Tensor, measure: Measure, seen: Seen | None = None
    ) -> Tensor:
        """Return `measure(x_hat, x)` of what `restored` gives of the latents y_hat, for maps x.

        Where it is compiled x_hat is never written to memory.
        """
        last, values = self._last_of_synthesis(y_hat, seen)
        synthesis = self._cropped(last, values, int(x.shape[-2]), int(x.shape[-1]), seen)
        return self.compiled(measured_undone)(measure, x, *synthesis)

    def _last_of_synthesis(self, y_hat: Tensor, seen: Seen | None) -> tuple[nn.Module, Tensor]:
        """Return g_s and the latents, or its last layer and what that gets beside a context."""
        if seen is None:
            return self.g_s, y_hat
        others, last = self._halves["g_s"]
        hidden = self._told(self._through(others, y_hat), "to_synthesis", seen)
        return last, hidden + self.transformed(self.beside.mixing, self._one_layout(hidden))

    def _cropped(
        self, network: nn.Module, values: Tensor, height: int, width: int, seen: Seen | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what it gives, of whatever dtype and cropped, and its mean and deviation."""
        x_hat = self._in_precision(network, self._one_layout(values))
        if seen is not None:
            x_hat = x_hat + seen.prediction
        return x_hat[..., :height, :width], self._row(self.mean), self._row(self.std)

    def _told(self, hidden: Tensor, name: str, seen: Seen) -> Tensor:
        return hidden + self.transformed(getattr(self.beside, name), seen.features)

    def _through(self, network: nn.Sequential, values: Tensor) -> Tensor:
        """Return a part's results, float32, fast where it can be; that of no layer is its input."""
        if not len(network):
            return values
        if (fast := self._fast_transform(network, values)) is None:
            return self.transformed(network, self._one_layout(values))
        domain = int(values.shape[-2]), int(values.shape[-1])
        return fast(values, domain=domain, size=fast.sides_of_results(domain))

    def _row(self, statistics: Tensor) -> Tensor:
        return statistics[self._level_row][:, None, None]


def _undone(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return what is no longer standardised, float32."""
    return torch.addcmul(mean, values, std)


def measured_undone(
    measure: Measure, x: Tensor, values: Tensor, mean: Tensor, std: Tensor
) -> Tensor:
    """Return `measure(x_hat, x)`, x_hat of g_s's `values` and their `mean` and `std`."""
    return measure(_undone(values, mean, std), x)
