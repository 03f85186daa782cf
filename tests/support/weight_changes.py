"""All the ways in which the weights of a network come to be others."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import nn

Change = Callable[[nn.Module], None]


@torch.no_grad()
def _in_place(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.mul_(1.5)


@torch.no_grad()
def _a_single_value(network: nn.Module) -> None:
    parameter = next(network.parameters())
    parameter[(-1,) * parameter.dim()] += 3


def _by_its_data(network: nn.Module) -> None:
    for parameter in network.parameters():  # as averaged weights are put into place
        parameter.data.copy_(1.5 * parameter.data)


def _other_data(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.data = 1.5 * parameter.data


def _by_an_optimiser(*, fused: bool) -> Change:
    def change(network: nn.Module) -> None:
        # No version is counted up by the fused one.
        network.requires_grad_(True)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=fused)
        for _ in range(20):
            for parameter in network.parameters():
                parameter.grad = -torch.ones_like(parameter)
            optimizer.step()
        network.requires_grad_(False)

    return change


def _loaded(network: nn.Module) -> None:
    network.load_state_dict({name: 1.5 * each for name, each in network.state_dict().items()})


def _other_parameters(network: nn.Module) -> None:
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, nn.Parameter(1.5 * parameter.detach(), requires_grad=False))


def _other_layers(network: nn.Module) -> None:
    for name, layer in list(network.named_children()):
        changed = deepcopy(layer)
        _in_place(changed)
        setattr(network, name, changed)


def _rounded(network: nn.Module) -> None:
    network.bfloat16().float()


CHANGES: dict[str, Change] = {
    "in place": _in_place,
    "a single value": _a_single_value,
    "by their data": _by_its_data,
    "other data": _other_data,
    "Adam": _by_an_optimiser(fused=False),
    "fused Adam": _by_an_optimiser(fused=True),
    "loaded": _loaded,
    "other parameters": _other_parameters,
    "other layers": _other_layers,
    "rounded": _rounded,
}
