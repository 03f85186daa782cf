"""One latent for all levels: what it codes and decodes, of whatever sizes and channels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from configs.errors import CacheError, ConfigError
from configs.schema.training import FUSED_PYRAMID, ModelConfig, PyramidConfig
from tests.support.torch_cores import cores
from train.codecs.catalogue import build_codec
from train.codecs.fused_pyramid import FusedPyramid
from train.codecs.layers.transforms import PyramidSize
from train.objective.rate_distortion import rate_bits
from train.runs.checkpoint import ready_to_code

CHANNELS = (16, 16, 8)
STRIDES = (1, 2, 4)


def fused(strides: Sequence[int] = STRIDES, stages: int = 1) -> FusedPyramid:
    """A codec whose random weights are large enough that its latents are not all 0."""
    torch.manual_seed(0)
    pyramid = PyramidConfig(num_channels=CHANNELS, strides=tuple(strides))
    model = ModelConfig(
        name=FUSED_PYRAMID, pyramid=pyramid, stages=stages, n_hidden=8, n_channels=12
    )
    codec = build_codec(model, max(CHANNELS), len(CHANNELS))
    assert isinstance(codec, FusedPyramid)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.mul_(1.5)
        codec.g_a.stages[-1][0].weight.mul_(2)
        codec.h_s[-1].bias[:12] = 3.0  # scales that latents of that size are likely under
        codec.mean += torch.arange(16) / 7 - 1
        codec.std *= torch.tensor([[1.0], [2.0], [5.0]])
    ready_to_code(codec, "cpu")
    return codec


def maps_of(sizes: Sequence[tuple[int, int]], batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        5 * torch.randn(batch, channels, *size, generator=generator)
        for channels, size in zip(CHANNELS, sizes, strict=True)
    ]


@pytest.mark.parametrize(
    "sizes",
    [
        [(16, 24), (8, 12), (4, 6)],
        [(13, 21), (7, 11), (4, 6)],
        [(1, 1), (1, 1), (1, 1)],
        [(17, 8), (9, 4), (5, 2)],
        [(8, 8), (5, 4), (3, 2)],  # a coarser level that reaches beyond the finest
    ],
)
def test_decoded_levels_are_bit_for_bit_the_eval_output_at_their_real_sizes(
    sizes: list[tuple[int, int]],
) -> None:
    codec, maps = fused(), maps_of(sizes)
    with torch.no_grad():
        expected = codec(maps)["x_hat"]
    decoded = codec.decompress(**codec.compress(maps))
    assert [tuple(each.shape[-2:]) for each in decoded] == sizes
    for there, here in zip(decoded, expected, strict=True):
        assert torch.equal(there, here)


def test_a_samples_strings_depend_neither_on_its_neighbours_nor_on_threads() -> None:
    codec, maps = fused(), maps_of([(13, 21), (7, 11), (4, 6)])
    with cores(1):
        both = codec.compress(maps)
        alone = codec.compress([each[1:] for each in maps])
        decoded = codec.decompress(**both)
    with cores(2):
        again = codec.decompress(**both)
    assert both["strings"][1] == alone["strings"][0]
    for here, there in zip(decoded, again, strict=True):
        assert torch.allclose(here, there, atol=1e-4)


@torch.no_grad()
def test_strings_are_as_long_as_the_likelihoods_say() -> None:
    codec, maps = fused(), maps_of([(64, 96), (32, 48), (16, 24)], batch=1)
    bits = float(rate_bits(codec.likelihoods(maps)).sum())
    real = 8 * sum(map(len, codec.compress(maps)["strings"][0]))
    assert bits > 500
    assert abs(real - bits) < 0.02 * bits + 64


def test_strings_of_maps_of_other_sizes_are_refused() -> None:
    codec, maps = fused(), maps_of([(32, 32), (16, 16), (8, 8)])
    strings = codec.compress(maps)["strings"]
    with pytest.raises(CacheError, match="damaged, or another model's"):
        codec.decompress(strings, [(64, 32), (32, 16), (16, 8)])


def test_the_latents_grid_is_a_stage_behind_the_coarsest_level_or_as_many_as_asked_for() -> None:
    assert fused().stride == 8
    assert fused(stages=4).stride == 16
    assert fused(strides=(1, 4, 8)).stride == 16
    with pytest.raises(ValueError, match="power of 2"):
        PyramidSize(num_channels=(4, 4), strides=(1, 3))


def test_training_reaches_all_weights_from_each_level() -> None:
    codec, maps = fused(), maps_of([(16, 24), (8, 12), (4, 6)])
    codec.requires_grad_(True).train()
    output = codec(maps)
    loss = sum(each.square().mean() for each in output["x_hat"])
    (loss + rate_bits(output["likelihoods"]).sum()).backward()
    without = [
        name
        for name, parameter in codec.named_parameters()
        if parameter.grad is None and not name.endswith("quantiles")
    ]
    assert without == []
    for level in range(3):
        codec.zero_grad()
        codec(maps)["x_hat"][level].square().mean().backward()
        assert codec.g_a.stages[0][0].weight.grad.abs().sum() > 0


def test_the_name_is_for_codecs_of_measured_levels_alone() -> None:
    with pytest.raises(ConfigError, match="--level fused"):
        build_codec(ModelConfig(name=FUSED_PYRAMID), 16)
    pyramid = PyramidConfig(num_channels=(16, 16), strides=(1, 2))
    with pytest.raises(ConfigError, match="--level fused"):
        build_codec(ModelConfig(pyramid=pyramid), 16, 2)
