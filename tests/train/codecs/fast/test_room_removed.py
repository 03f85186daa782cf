"""Without the room of fast transforms, and with it switched off, codecs lose speed and no more."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from configs.schema.training import ModelConfig
from train.codecs.catalogue import build_codec

WITHOUT_THE_ROOM = """
import logging
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("train.codecs.fast"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocked())
logging.basicConfig(level="DEBUG", format="%(name)s: %(message)s")

from train.testing import check_codec

check_codec("mean_scale_hyperprior", n_hidden=16, n_channels=16)  # widths that the room takes
assert not [name for name in sys.modules if name.startswith("train.codecs.fast")]
"""


def test_a_codec_trains_and_codes_exactly_with_the_room_removed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_ROOM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("g_a and g_s run layer by layer: No module named 'train.codecs.f") == 1


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
