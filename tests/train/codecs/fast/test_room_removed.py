"""Without the room of fast transforms, and with it switched off, codecs lose speed and no more."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from logging.handlers import BufferingHandler

import pytest
import torch

from configs.schema.training import ModelConfig
from tests.support.forked import result_of
from train.codecs import network_runner
from train.codecs.catalogue import build_codec
from train.testing import check_codec

ROOM = "train.codecs.fast"


class Blocked:
    """Finds no file of the room."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        if name.startswith(ROOM):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def check_without_the_room() -> list[str]:
    """Return what a codec's whole check says of its transforms. The process is spoilt by it."""
    for name in [name for name in sys.modules if name.startswith(ROOM)]:
        del sys.modules[name]
    sys.meta_path.insert(0, Blocked())
    network_runner._fast_room.cache_clear()
    told = BufferingHandler(1000)
    network_runner.log.addHandler(told)
    network_runner.log.setLevel(logging.DEBUG)
    # Widths that the room takes.
    check_codec("mean_scale_hyperprior", n_hidden=16, n_channels=16, num_steps=30)
    assert not [name for name in sys.modules if name.startswith(ROOM)]
    return [record.getMessage() for record in told.buffer]


def test_a_codec_trains_and_codes_exactly_with_the_room_removed() -> None:
    told = [line for line in result_of(check_without_the_room) if "layer by layer" in line]
    assert len(told) == 1
    assert told[0].startswith("g_a and g_s run layer by layer: No module named 'train.codecs.fast")


@pytest.mark.parametrize("fast_cpu", ["auto", "never"])
@torch.no_grad()
def test_one_switch_in_the_configuration_decides(fast_cpu: str) -> None:
    settings = {"n_hidden": 16, "n_channels": 16, "fast_cpu": fast_cpu}
    codec = build_codec(ModelConfig.model_validate(settings), 16).eval().requires_grad_(False)
    codec.update_tables()
    x = torch.randn(1, 16, 70, 90, generator=torch.Generator().manual_seed(0))
    assert codec.layer_by_layer == (fast_cpu == "never")
    y = codec.latents(x)
    layers = codec.g_a(codec.standardised(x))
    assert torch.equal(y, layers) == (fast_cpu == "never")
    assert torch.allclose(y, layers, rtol=1e-3, atol=1e-4)
