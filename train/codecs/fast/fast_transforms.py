"""g_a and g_s of a codec in eval mode on a CPU, two to three times as fast as layer by layer.

Standardising, padding and the change of layout happen on the way into the first layer, GDN while a
block of a layer's results is still in the cache. The results are those of the layers but for
rounding (a few millionths of their size: Winograd's algorithm adds large numbers that cancel).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from train.codecs.fast.fast_layers import FastConv, FastDeconv, FastLayer, Maps, Sides
from train.codecs.fast.winograd import LANES
from train.codecs.layers.compressai_parts import GDN
from train.codecs.layers.origin import Origin


class _Normalise:
    """GDN, or its inverse, of rows of positions [n, C], in place."""

    def __init__(self, gdn: GDN) -> None:
        self._beta = gdn.beta_reparam(gdn.beta).detach().clone()
        self._gamma = gdn.gamma_reparam(gdn.gamma).detach().t().contiguous()
        self._is_inverse = bool(gdn.inverse)

    def __call__(self, rows: Tensor) -> None:
        energy = torch.addmm(self._beta, rows * rows, self._gamma)
        rows.mul_(energy.sqrt_() if self._is_inverse else energy.rsqrt_())


class FastTransform:
    """A chain of 5x5 layers of stride 2 and GDN, with its weights of now."""

    def __init__(self, network: nn.Sequential) -> None:
        self._layers: list[FastLayer] = []
        for module, following in pairwise([*network, None]):
            then = _Normalise(following) if isinstance(following, GDN) else None
            if isinstance(module, nn.ConvTranspose2d):
                self._layers.append(FastDeconv(module, then))
            elif isinstance(module, nn.Conv2d):
                self._layers.append(FastConv(module, then))

    def __call__(
        self, x: Tensor, *, domain: Sides, size: Sides, before: Tensor | None = None,
        after: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return results float32 [B, N, *size], channels last, for x float32 [B, C, H, W].

        What goes in is x times and plus `before` [2, C], padded by replication to `domain` (h, w);
        what comes out is times and plus `after` [2, N], and as much of it as `size` says. Nothing
        depends on a sample's neighbours, on x's layout or on the number of cores.
        """
        first, last = self._layers[0], self._layers[-1]
        before = first.unchanged if before is None else before
        factors = last.bias
        if after is not None:
            factors = torch.stack([after[0], torch.addcmul(after[1], factors[1], after[0])])
        results = [
            self._of_sample(Maps(each, before, domain), factors, size) for each in x.detach()
        ]
        if len(results) == 1:
            return results[0][None]
        return torch.stack([each.permute(1, 2, 0) for each in results]).permute(0, 3, 1, 2)

    def sides_of_results(self, domain: Sides) -> Sides:
        """Return height and width of the results of maps of a domain."""
        for layer in self._layers:
            domain = layer.sides_of_results(domain)
        return domain

    def _of_sample(self, maps: Maps, factors: Tensor, size: Sides) -> Tensor:
        sizes = [size]
        for layer in reversed(self._layers):
            sizes.insert(0, layer.sides_needed(sizes[0]))
        # Of a map that is cropped in the end no layer makes more than that takes.
        domain = _lesser(maps.domain, sizes[0])
        maps = Maps(maps.x, maps.factors, domain)
        for number, layer in enumerate(self._layers[:-1], start=1):
            sides = _lesser(layer.sides_of_results(maps.domain), sizes[number])
            result = layer(maps, layer.bias, sides)
            maps = Maps(result, self._layers[number].unchanged, sides)
        return self._layers[-1](maps, factors, size)


def _lesser(sides: Sides, others: Sides) -> Sides:
    return min(sides[0], others[0]), min(sides[1], others[1])


class FastTransforms:
    """The fast versions of networks, made when first used, and anew for other weights."""

    def __init__(self) -> None:
        self._made: dict[nn.Module, tuple[Origin, FastTransform]] = {}

    def clear(self) -> None:
        """Forget them: the weights may change."""
        self._made.clear()

    def of(self, network: nn.Module, values: Tensor) -> FastTransform | None:
        """Return the fast version of a network if it has one that suits the values."""
        is_plain = values.dtype == torch.float32 and values.device.type == "cpu"
        if not is_plain or _is_hooked(network):
            return None
        if _needs_gradients(network, values):
            self._made.pop(network, None)  # who asks for them will use them
            return None
        origin, made = self._made.get(network, (None, None))
        if origin is not None and origin.is_still(network):
            return made
        if not _is_known(network):
            self._made.pop(network, None)
            return None
        made = FastTransform(network)
        self._made[network] = Origin(network), made
        return made


def _needs_gradients(network: nn.Module, values: Tensor) -> bool:
    return torch.is_grad_enabled() and (
        values.requires_grad or any(weight.requires_grad for weight in network.parameters())
    )


def _is_hooked(network: nn.Module) -> bool:
    """Whether anybody wants to see, or to change, what the layers get and give."""
    everywhere = (torch_modules._global_forward_pre_hooks, torch_modules._global_forward_hooks)
    return any(everywhere) or any(
        module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module)
        for module in network.modules()
    )


def _is_known(network: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether a network is a chain of 5x5 layers of stride 2 and GDN, of suitable weights."""
    # Subclasses compute something else: GDN1, MaskedConv2d.
    return type(network) is nn.Sequential and all(
        type(module) is GDN or _is_known_layer(module) for module in network
    )


def _is_known_layer(module: nn.Module) -> bool:
    if type(module) not in (nn.Conv2d, nn.ConvTranspose2d):
        return False
    assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    shape = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
    expands = isinstance(module, nn.ConvTranspose2d)
    return (
        shape == ((5, 5), (2, 2), (2, 2), (1, 1), 1)
        and module.output_padding == ((1, 1) if expands else (0, 0))
        and (module.padding_mode, module.weight.dtype) == ("zeros", torch.float32)
        and module.in_channels % LANES == module.out_channels % LANES == 0
    )
