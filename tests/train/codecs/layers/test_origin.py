"""An origin tells the weights that something was made of from all others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.weight_changes import CHANGES
from train.codecs.layers.origin import Origin
from train.codecs.layers.transforms import analysis


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return analysis(16, 8, 8, 2).to(memory_format=torch.channels_last).requires_grad_(False)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_weights_is_seen(network: nn.Module, change: str) -> None:
    origin = Origin(network)
    assert origin.is_still(network)
    CHANGES[change](network)
    assert not origin.is_still(network)
    assert Origin(network).is_still(network)


def test_use_changes_nothing(network: nn.Module) -> None:
    origin = Origin(network)
    x = torch.ones(1, 16, 8, 8)
    network(x)
    with torch.inference_mode():
        network(x)
        assert origin.is_still(network)
    network.requires_grad_(True)(x).sum().backward()
    network.train().eval()
    assert origin.is_still(network)


def test_weights_made_in_inference_mode_which_count_no_versions_are_looked_at(
    network: nn.Module,
) -> None:
    with torch.inference_mode():
        made = analysis(16, 8, 8, 2)
        origin = Origin(made)
        assert origin.is_still(made)
        CHANGES["in place"](made)
    assert not origin.is_still(made)


def test_weights_that_only_moved_have_the_values_of_before(network: nn.Module) -> None:
    origin = Origin(network)
    network.to(memory_format=torch.contiguous_format)
    assert not origin.is_still(network) and origin.has_values_of(network)
    network.double()
    assert origin.has_values_of(network)
    network.bfloat16().float()
    assert not origin.has_values_of(network)
