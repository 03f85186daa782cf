"""All models while they train: noise, autocast, compiled steps, and what learns."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny_codecs import (
    NAMES,
    features,
    largest_error,
    ready_codec,
    tiny_codec,
)


@pytest.mark.parametrize("input_noise", [0.0, 0.5])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_two_halves_of_a_batch_see_the_noise_of_the_whole(name: str, input_noise: float) -> None:
    codec = tiny_codec(name).train()
    codec.input_noise = input_noise
    x = features(32, 48, batch=4)
    torch.manual_seed(5)
    whole = codec(x.to(memory_format=torch.channels_last))
    halves = []
    for first in (0, 2):
        torch.manual_seed(5)
        codec.noise_share = (first, 2, 4)
        halves.append(codec(x[first : first + 2]))
    assert torch.allclose(
        torch.cat([half["x_hat"] for half in halves]), whole["x_hat"], rtol=1e-4, atol=1e-3
    )
    for key, likelihoods in whole["likelihoods"].items():
        parts = torch.cat([half["likelihoods"][key] for half in halves])
        assert torch.allclose(parts, likelihoods, rtol=1e-3, atol=1e-6), key
    codec.noise_share = None
    alone = codec(x)["likelihoods"]["y"]
    assert not torch.allclose(alone, whole["likelihoods"]["y"], rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_input_noise_is_as_large_as_asked_and_for_training_alone() -> None:
    codec = tiny_codec()
    seen: list[torch.Tensor] = []
    codec.g_a.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = features(64, 64)
    for training, input_noise in ((False, 0.0), (False, 0.5), (True, 0.0), (True, 0.5)):
        codec.train(training)
        codec.input_noise = input_noise
        codec(x)
    plain, *others, noisy = seen
    assert all(torch.equal(other, plain) for other in others)
    errors = noisy - plain
    assert float(errors.mean()) == pytest.approx(0, abs=0.01)
    assert errors.std(dim=(0, 2, 3)).numpy() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_mixed_quantization_gives_synthesis_whole_distances_and_the_density_noise(
    name: str,
) -> None:
    codec = tiny_codec(name).train()
    shown: list[torch.Tensor] = []
    codec.g_s.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    x = features(64, 64)
    outputs = []
    for mixed in (False, True):
        codec.mixed_quantization = mixed
        torch.manual_seed(5)
        outputs.append(codec(x))
    noisy, mixed_output = outputs
    for key, likelihoods in noisy["likelihoods"].items():
        assert torch.equal(mixed_output["likelihoods"][key], likelihoods), key
    y = codec.latents(x)
    with_noise, rounded = shown
    assert 0.2 < float((with_noise - y).abs().max()) <= 0.5001
    assert 0.2 < float((rounded - y).abs().max()) <= 0.5001
    if name in NAMES[:2]:
        whole = rounded - (codec._medians() if name == NAMES[0] else 0)
        assert torch.allclose(whole, whole.round(), atol=1e-4)
        assert not torch.allclose(with_noise, with_noise.round(), atol=0.1)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_autocast_changes_little_and_results_stay_float32(name: str) -> None:
    codec = ready_codec(name).train()
    x = features(48, 80)
    outputs = []
    for dtype in (None, torch.bfloat16):
        codec.autocast_dtype = dtype
        torch.manual_seed(3)
        outputs.append(codec(x))
    exact, coarse = outputs
    assert not torch.equal(exact["x_hat"], coarse["x_hat"])
    assert largest_error(coarse["x_hat"] + 20, exact["x_hat"] + 20) < 0.05
    for tensor in (coarse["x_hat"], *coarse["likelihoods"].values()):
        assert tensor.dtype == torch.float32
    in_bfloat16 = codec.eval().compress(x)["strings"]
    assert codec.autocast_dtype == torch.bfloat16
    codec.autocast_dtype = None
    assert in_bfloat16 == codec.compress(x)["strings"], "coding is float32 whatever autocast is"


@pytest.mark.parametrize("name", NAMES)
def test_compiling_steps_keeps_the_keys_of_the_state_and_is_for_training_alone(name: str) -> None:
    codec = tiny_codec(name)
    keys = list(codec.state_dict())
    codec.compile_steps()
    assert list(codec.state_dict()) == keys
    for network in (getattr(codec, transform) for transform in codec.transform_names):
        assert codec.train().compiled(network) is not network
        assert codec.eval().compiled(network) is network


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns_and_only_the_quantiles_are_auxiliary(
    name: str, mixed: bool
) -> None:
    codec = tiny_codec(name).train()
    codec.mixed_quantization = mixed
    output = codec(features(64, 64))
    (output["x_hat"].square().mean() - sum(
        likelihoods.log().mean() for likelihoods in output["likelihoods"].values()
    )).backward()  # fmt: skip
    auxiliary = codec.aux_parameters()
    untouched = [key for key, each in codec.named_parameters() if each.grad is None]
    assert untouched == ["entropy_bottleneck.quantiles"]
    assert [id(each) for each in auxiliary] == [id(codec.entropy_bottleneck.quantiles)]
    codec.aux_loss().backward()
    assert auxiliary[0].grad is not None
