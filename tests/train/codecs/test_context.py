"""Codecs that see the decoded coarser level: what they code, decode, and leave out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from configs.errors import ConfigError
from configs.schema.training import ContextConfig, ModelConfig
from tests.support.tiny_codecs import NAMES
from tests.support.torch_cores import cores
from train.codecs.catalogue import build_codec
from train.codecs.gaussian import ContextPrior
from train.codecs.layers.context_path import Context, on_grid_of
from train.codecs.level_codec import LevelCodec
from train.runs.checkpoint import ready_to_code
from train.testing import check_codec

WIDTHS = {"n_hidden": 16, "n_channels": 16, "fpn_channels_per_level": 16}
"""Multiples of what fast transforms take together."""


def untrained(name: str, stages: int, context: ContextConfig | None = None) -> LevelCodec:
    """A codec whose random weights are large enough that its latents are not all 0."""
    torch.manual_seed(stages)
    codec = build_codec(ModelConfig(name=name, stages=stages, context=context, **WIDTHS), 16)
    with torch.no_grad():
        for key, parameter in codec.named_parameters():
            if "entropy_bottleneck" not in key:  # of wide densities the tables are long
                parameter.mul_(1.5)
    return ready_to_code(codec, "cpu")


def pyramid(name: str, stages: int = 3) -> list[LevelCodec]:
    """Three codecs, coarsest first: each but the first sees what the ones before have decoded."""
    first = untrained(name, 2)
    second = ContextConfig(num_channels=16, stride=2, trail_channels=16, trail_stride=8)
    third = ContextConfig(num_channels=16, stride=2, trail_channels=32, trail_stride=2 * 2**stages)
    return [first, untrained(name, stages, second), untrained(name, 2, third)]


def pyramid_maps(batch: int = 2) -> list[Tensor]:
    """Maps of odd sizes, coarsest first."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((4, 6), (7, 11), (13, 21))
    return [5 * torch.randn(batch, 16, *size, generator=generator) for size in sizes]


def sent(codecs: list[LevelCodec], maps: list[Tensor]) -> tuple[list[list[bytes]], list[Context]]:
    """Each level's strings, and what the decoder has of it, from the strings alone."""
    strings, decoded, context = [], [], None
    for codec, x in zip(codecs, maps, strict=True):
        packed = codec.compress(x, context)
        there = codec.decompress(**packed, context=context)
        context = Context(there["x_hat"], there["trail"])
        strings.append(packed["strings"])
        decoded.append(context)
    return strings, decoded


@pytest.mark.parametrize("name", NAMES)
def test_models_beside_a_coarser_level_keep_the_contract(name: str) -> None:
    context = {"num_channels": 8, "stride": 2, "trail_channels": 20, "trail_stride": 8}
    check_codec(name, context=context, num_steps=100)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_encoder_knows_to_the_bit_what_the_decoder_will_have(name: str) -> None:
    codecs, maps = pyramid(name), pyramid_maps()
    strings, decoded = sent(codecs, maps)
    context: Context | None = None
    for codec, x, expected, there in zip(codecs, maps, strings, decoded, strict=True):
        coded, context = codec.compress_for_finer(x, context)
        assert coded["strings"] == expected
        assert torch.equal(context.maps, there.maps) and torch.equal(context.trail, there.trail)


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_decoded_pyramid_is_bit_for_bit_the_eval_output_of_each_level(
    name: str, stages: int
) -> None:
    codecs, maps = pyramid(name, stages), pyramid_maps()
    _, decoded = sent(codecs, maps)
    context: Context | None = None
    for codec, x, there in zip(codecs, maps, decoded, strict=True):
        here = codec.decoded(x, context)
        assert torch.equal(here.maps, there.maps) and torch.equal(here.trail, there.trail)
        given = {} if context is None else {"context": context}
        assert torch.equal(codec(x, **given)["x_hat"], there.maps)
        context = here


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_latents_decode_the_same_from_maps_that_differ_by_rounding_and_with_other_cores(
    name: str,
) -> None:
    maps = pyramid_maps()
    with cores(1):
        codecs = pyramid(name)
        strings, decoded = sent(codecs, maps)
    last, beside = strings[2], decoded[1]
    off = beside.maps * (1 + 2**-20)  # as another processor's sums come out
    with cores(2):
        other = pyramid(name)[2]
        for row in range(2):
            context = Context(off[row : row + 1], beside.trail[row : row + 1])
            there = other.decompress([last[row]], (4, 6), (13, 21), context)
            assert torch.equal(there["trail"][0], decoded[2].trail[row])
            torch.testing.assert_close(there["x_hat"][0], decoded[2].maps[row])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_predicted_level_is_what_a_level_whose_symbols_are_all_zero_decodes_to(name: str) -> None:
    codecs, maps = pyramid(name), pyramid_maps()
    _, decoded = sent(codecs, maps)
    codec, context = codecs[2], decoded[1]
    predicted = codec.predicted((13, 21), context)
    seen = codec.see(context, 13, 21)
    assert seen is not None
    # Latents that lie at their means, or 0 where side information comes from them, are rounded so.
    y_hat = predicted.trail[:, :16]
    if name == "factorized_prior_specific_level":
        again, likelihoods = codec.rounded_latents(y_hat, seen.trail)
        assert torch.equal(again, y_hat)
        assert likelihoods["y"].shape == y_hat.shape
    assert torch.equal(codec.restored(y_hat, 13, 21, seen), predicted.maps)
    assert torch.equal(predicted.trail[:, 16:], seen.trail)
    off = Context(context.maps, context.trail + 1)
    assert not torch.equal(codec.predicted((13, 21), off).trail, predicted.trail)


def test_context_is_asked_for_and_refused() -> None:
    first, second, _ = pyramid("mean_scale_hyperprior")
    coarse, fine, _ = pyramid_maps()
    with pytest.raises(ValueError, match="needs the decoded coarser level: give its context"):
        second.compress(fine)
    with pytest.raises(ValueError, match="sees no coarser level: give none"):
        first.decoded(coarse, first.decoded(coarse))


def test_nearest_upsampling_is_that_of_an_fpn_for_even_and_odd_sizes() -> None:
    coarse = torch.randn(1, 3, 7, 11)
    for size in ((14, 22), (13, 21)):
        expected = torch.nn.functional.interpolate(coarse, size=size, mode="nearest")
        assert torch.equal(on_grid_of(coarse, 2, size, 1), expected)


def test_grid_as_fine_or_finer_is_matched_by_its_first_position() -> None:
    values = torch.arange(6.0).reshape(1, 1, 1, 6)
    assert torch.equal(on_grid_of(values, 2, (1, 6), 2), values)
    assert on_grid_of(values, 2, (1, 3), 4).flatten().tolist() == [0, 2, 4]
    assert on_grid_of(values, 2, (1, 8), 2).flatten().tolist() == [0, 1, 2, 3, 4, 5, 5, 5]


def test_factorized_prior_beside_a_level_has_a_gaussian_for_each_latent() -> None:
    assert isinstance(pyramid("factorized_prior_specific_level")[1], ContextPrior)


def test_own_codec_that_takes_no_context_is_refused_in_one_line() -> None:
    context = ContextConfig(num_channels=16, stride=2, trail_channels=16, trail_stride=8)
    name = "examples.own_codec:LightDecoder"
    with pytest.raises(ConfigError, match="takes no context: train it without --context"):
        build_codec(ModelConfig(name=name, context=context, **WIDTHS), 16)


@pytest.mark.parametrize("name", NAMES)
def test_all_that_a_codec_is_made_of_learns(name: str) -> None:
    codecs, maps = pyramid(name), pyramid_maps()
    context = codecs[0].decoded(maps[0])
    codec = codecs[1].train().requires_grad_(True)
    output = codec(maps[1], context=context)
    bits = sum(-each.log2().sum() for each in output["likelihoods"].values())
    (output["x_hat"].square().mean() + 1e-3 * bits).backward()
    without = {key for key, each in codec.named_parameters() if each.grad is None}
    assert without <= {"entropy_bottleneck.quantiles"}
