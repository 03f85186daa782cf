"""Coding tables: those of the densities, and the same whatever the arithmetic's last digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from configs.schema.training import ModelConfig
from train.codecs.catalogue import build_codec
from train.codecs.layers.compressai_parts import EntropyBottleneck, GaussianConditional
from train.codecs.level_codec import LevelCodec

BUFFERS = ("quantiles", "scale_table", "_quantized_cdf", "_offset", "_cdf_length")
NAMES = ("factorized_prior_specific_level", "mean_scale_hyperprior")


def codec_of(name: str, seed: int) -> LevelCodec:
    """A codec whose densities are wide and narrow, and off zero, as trained ones are."""
    torch.manual_seed(seed)
    codec = build_codec(ModelConfig(name=name, n_hidden=32, n_channels=48), 256)
    for key, parameter in codec.entropy_bottleneck.named_parameters():
        if key != "quantiles":
            parameter.data += 0.5 * torch.randn_like(parameter)
    return codec.eval()


def tables_of(codec: LevelCodec) -> dict[str, Tensor]:
    codec.update_tables()
    state = codec.state_dict()
    return {key: value for key, value in state.items() if key.split(".")[-1] in BUFFERS}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_another_machines_rounding_changes_no_table(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {key: value.clone() for key, value in tables_of(codec_of(name, seed)).items()}
    logits = EntropyBottleneck._logits_cumulative
    cumulative = GaussianConditional._standardized_cumulative

    def slightly(values: Tensor) -> Tensor:
        return values * (1 + 4e-16 * torch.randn(values.shape, dtype=torch.float64))

    def other_logits(model: Any, inputs: Tensor, stop_gradient: bool) -> Tensor:
        return slightly(logits(model, inputs, stop_gradient))

    def other_cumulative(model: Any, inputs: Tensor) -> Tensor:
        return slightly(cumulative(model, inputs))

    monkeypatch.setattr(EntropyBottleneck, "_logits_cumulative", other_logits)
    monkeypatch.setattr(GaussianConditional, "_standardized_cumulative", other_cumulative)
    there = tables_of(codec_of(name, seed))
    assert here.keys() == there.keys() and here
    assert all(torch.equal(here[key], there[key]) for key in here)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_codec_on_a_gpu_makes_the_tables_that_it_makes_on_the_cpu(name: str) -> None:
    on_cpu, on_gpu = tables_of(codec_of(name, 0)), tables_of(codec_of(name, 0).cuda())
    assert all(torch.equal(on_cpu[key], on_gpu[key].cpu()) for key in on_cpu)


@pytest.mark.parametrize("seed", range(3))
def test_quantiles_are_where_the_densities_say_and_on_a_grid(seed: int) -> None:
    codec = codec_of(NAMES[0], seed)
    codec.update_tables()
    bottleneck = codec.entropy_bottleneck
    quantiles = bottleneck.quantiles.detach()
    step = 2.0**-10
    assert torch.equal(quantiles, torch.round(quantiles / step) * step)
    before, after = (
        bottleneck._logits_cumulative(quantiles + sign * step, stop_gradient=True)
        for sign in (-1, 1)
    )
    assert bool((before <= bottleneck.target).all() and (bottleneck.target <= after).all())


def test_tables_are_compressais_own_but_for_a_count_here_and_there() -> None:
    codec = codec_of(NAMES[1], 0)
    ours = {key: value.clone() for key, value in tables_of(codec).items()}
    codec.update(force=True, update_quantiles=False)
    theirs = codec.state_dict()
    for key, value in ours.items():
        if key.endswith("_quantized_cdf"):
            assert value.shape == theirs[key].shape
            assert int((value - theirs[key]).abs().max()) <= 2
        else:
            torch.testing.assert_close(value, theirs[key], rtol=1e-6, atol=0)
