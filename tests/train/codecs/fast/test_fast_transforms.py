"""Codecs on a CPU run g_a and g_s by Winograd's algorithm: same weights, same results."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from configs.schema.training import ModelConfig
from tests.support.torch_cores import cores
from tests.support.weight_changes import CHANGES
from train.codecs.catalogue import MODELS, build_codec
from train.codecs.fast import winograd
from train.codecs.layers.compressai_parts import MaskedConv2d
from train.codecs.level_codec import LevelCodec

CLOSE = 3e-5
"""Largest difference by the largest value: Winograd's numbers cancel to some millionths."""


def ready_codec(
    name: str = "factorized_prior_specific_level", *, channels: int = 32, n_hidden: int = 48,
    n_channels: int = 16, stages: int = 4,
) -> LevelCodec:  # fmt: skip
    """A codec whose channels suit the loops, with GDN that does something, ready to code."""
    torch.manual_seed(0)
    settings = {"name": name, "n_hidden": n_hidden, "n_channels": n_channels, "stages": stages}
    codec = build_codec(ModelConfig.model_validate(settings), channels, 2)
    means = np.linspace(-30, 30, 2 * channels).reshape(2, channels)
    codec.set_standardisation(means, np.linspace(0.5, 90, 2 * channels).reshape(2, channels))
    with torch.no_grad():
        codec.g_a[-1].weight.mul_(30)
        for key, parameter in codec.named_parameters():
            if key.endswith(("gamma", "bias")):
                parameter.add_(0.1 * torch.rand_like(parameter))
    codec.eval().requires_grad_(False)
    codec.update_tables()
    return codec


def plain(codec: LevelCodec) -> LevelCodec:
    """The same codec, computing layer by layer."""
    other = deepcopy(codec)
    other.layer_by_layer = True
    return other


def maps(height: int, width: int, *, batch: int = 1, channels: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return 20 * torch.randn(batch, channels, height, width, generator=generator) - 5


def assert_close(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert float((one - other).abs().max()) <= CLOSE * float(other.abs().max())


@given(
    taps=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    values=st.lists(st.floats(-100, 100), min_size=6, max_size=6),
)
def test_products_at_six_points_are_a_correlation_with_three_taps(
    taps: list[float], values: list[float]
) -> None:
    at_points = winograd._TO_POINTS_OF_KERNEL.numpy() @ np.array(taps)
    results = winograd.from_points(list(at_points * np.array(winograd.to_points(values))))
    expected = np.correlate(values, taps, "valid")
    assert np.allclose(results, expected, atol=1e-9)


def test_two_taps_have_no_value_at_infinity_or_at_zero() -> None:
    at_points = winograd._TO_POINTS_OF_KERNEL
    assert torch.equal(at_points[5, :2], torch.zeros(2, dtype=torch.float64))
    assert torch.equal(at_points[0, 1:], torch.zeros(2, dtype=torch.float64))


SIZES = [(1, 1), (13, 21), (16, 32), (47, 90), (64, 64), (200, 131), (33, 700)]


@pytest.mark.parametrize("size_hw", SIZES, ids=str)
@torch.no_grad()
def test_fast_latents_and_maps_are_those_of_the_layers(size_hw: tuple[int, int]) -> None:
    codec = ready_codec()
    x = maps(*size_hw, batch=2)
    y = codec.latents(x)
    assert_close(y, plain(codec).latents(x))
    assert_close(codec.restored(y, *size_hw), plain(codec).restored(y, *size_hw))


@given(height=st.integers(1, 90), width=st.integers(1, 90), stages=st.integers(1, 4))
@torch.no_grad()
def test_every_size_and_number_of_stages_is_close_to_the_layers(
    height: int, width: int, stages: int
) -> None:
    codec = ready_codec(channels=16, n_hidden=32, stages=stages)
    x = maps(height, width, channels=16)
    y = codec.latents(x)
    assert_close(y, plain(codec).latents(x))
    assert_close(codec.restored(y, height, width), plain(codec).restored(y, height, width))


@torch.no_grad()
def test_more_channels_than_a_group_are_close_too() -> None:
    codec = ready_codec(channels=272, n_hidden=288, stages=2)
    x = maps(60, 50, channels=272)
    y = codec.latents(x)
    assert_close(y, plain(codec).latents(x))
    assert_close(codec.restored(y, 60, 50), plain(codec).restored(y, 60, 50))


@pytest.mark.parametrize("size_hw", [(13, 21), (150, 200)], ids=str)
@pytest.mark.parametrize("name", list(MODELS))
@torch.no_grad()
def test_decoded_bytes_are_bit_for_bit_the_fast_eval_output(
    name: str, size_hw: tuple[int, int]
) -> None:
    codec = ready_codec(name)
    x = maps(*size_hw, batch=2)
    packed = codec.compress(x)
    x_hat = codec.decompress(packed["strings"], packed["shape"], packed["size"])["x_hat"]
    assert torch.equal(x_hat, codec(x)["x_hat"])
    assert not torch.equal(x_hat, plain(codec)(x)["x_hat"]), "then the fast way was not taken"


@pytest.mark.parametrize("size_hw", [(13, 21), (150, 200)], ids=str)
@torch.no_grad()
def test_results_do_not_depend_on_batch_layout_or_cores(size_hw: tuple[int, int]) -> None:
    codec = ready_codec()
    x = maps(*size_hw, batch=3)
    with cores(1):
        expected = codec(x)["x_hat"]
    with cores(3):
        assert torch.equal(codec(x)["x_hat"], expected)
        assert torch.equal(codec(x[1:2])["x_hat"], expected[1:2])
        assert torch.equal(codec(x.to(memory_format=torch.channels_last))["x_hat"], expected)
        assert torch.equal(codec(x.flip(3).flip(3))["x_hat"], expected)
        wider = torch.cat([x, x], 3)[..., : size_hw[1]]
        assert not wider.is_contiguous()
        assert torch.equal(codec(wider)["x_hat"], expected)


@torch.no_grad()
def test_inference_mode_leaves_nothing_behind_that_no_grad_cannot_use() -> None:
    codec, x = ready_codec(), maps(150, 100)
    with torch.inference_mode():
        expected = codec(x)["x_hat"].clone()
    assert torch.equal(codec(x)["x_hat"], expected)


def test_the_level_row_in_use_is_that_of_the_fast_transforms() -> None:
    codec, x = ready_codec(), maps(40, 70)
    first = codec(x)["x_hat"]
    codec.use_level(1)
    assert_close(codec(x)["x_hat"], plain(codec)(x)["x_hat"])
    assert not torch.allclose(codec(x)["x_hat"], first)


def test_gradients_training_and_other_types_get_the_layers() -> None:
    codec = ready_codec()
    x = maps(40, 70)
    expected = plain(codec)(x)["x_hat"]
    assert not torch.equal(codec(x)["x_hat"], expected)
    wanted = x.clone().requires_grad_()
    output = codec(wanted)["x_hat"]
    output.sum().backward()
    assert torch.equal(output, expected)
    assert wanted.grad is not None
    codec.g_s.requires_grad_(True)
    assert codec._fast.of(codec.g_s, x) is None
    assert codec._fast.of(codec.g_a, x.double()) is None
    assert codec._fast_transform(codec.train().g_a, x) is None


@torch.no_grad()
def test_loaded_weights_are_used_once_the_tables_are_made_anew() -> None:
    codec, x = ready_codec(), maps(40, 70)
    before = codec(x)["x_hat"]
    codec.g_s[-1].bias.add_(3.0)
    assert_close(codec(x)["x_hat"], plain(codec)(x)["x_hat"])
    assert not torch.allclose(codec(x)["x_hat"], before)
    state = ready_codec().state_dict()
    codec.load_state_dict(state)
    codec.update_tables()
    assert torch.equal(codec(x)["x_hat"], before)


@torch.no_grad()
def test_channels_that_do_not_fill_vectors_get_the_layers() -> None:
    codec = ready_codec(n_hidden=40)
    x = maps(40, 70)
    assert torch.equal(codec(x)["x_hat"], plain(codec)(x)["x_hat"])


@torch.no_grad()
def test_networks_of_other_layers_are_left_alone() -> None:
    codec, x = ready_codec(), maps(40, 70)
    for layer in (
        torch.nn.Conv2d(32, 48, 3, stride=2, padding=1),
        torch.nn.Conv2d(32, 48, 5, stride=2, padding=2, padding_mode="replicate"),
        torch.nn.Conv2d(32, 48, 5, stride=2, padding=2, groups=2),
        MaskedConv2d(32, 48, 5, stride=2, padding=2),
    ):
        codec.g_a[0] = layer
        codec.update_tables()
        assert codec._fast.of(codec.g_a, x) is None
    assert codec._fast.of(codec.g_s, x) is not None


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changed_weights_are_those_that_run(change: str) -> None:
    codec, x = ready_codec(), maps(40, 70)
    before = codec(x)["x_hat"]
    for network in (codec.g_a, codec.g_s):
        CHANGES[change](network)
        after = codec(x)["x_hat"]
        assert_close(after, plain(codec)(x)["x_hat"])
        assert not torch.equal(after, before)
        assert codec._fast is not None and codec._fast.of(network, x) is not None
        before = after


def test_training_goes_on_after_the_tables_and_forward_follows_it() -> None:
    codec, x = ready_codec(), maps(40, 70)
    codec.requires_grad_(True)
    with torch.no_grad():
        before = codec(x)["x_hat"]
    optimizer = torch.optim.Adam(codec.g_s[-1:].parameters(), lr=0.1, fused=True)
    codec.train()
    for _ in range(20):
        optimizer.zero_grad()
        codec(x)["x_hat"].square().mean().backward()
        # Only of values that nobody looks at.
        codec.g_s[-1].weight.grad[:, :16] = codec.g_s[-1].bias.grad[:4] = 0
        optimizer.step()
    codec.eval()
    with torch.no_grad():
        after = codec(x)["x_hat"]
        assert_close(after, plain(codec)(x)["x_hat"])
    assert not torch.allclose(after, before)


@torch.no_grad()
def test_hooks_see_and_change_what_the_layers_give() -> None:
    codec, x = ready_codec(), maps(40, 70)
    usual = codec(x)["x_hat"]
    seen: list[torch.Size] = []
    doubled = codec.g_s.register_forward_hook(lambda *given: 2 * given[2])
    watch = codec.g_a[1].register_forward_pre_hook(lambda *given: seen.append(given[1][0].shape))
    twice = codec(x)["x_hat"]
    assert_close(twice, plain(codec)(x)["x_hat"])
    assert seen[0] == (1, 48, 24, 40)
    doubled.remove()
    watch.remove()
    assert not torch.allclose(twice, usual)
    assert torch.equal(codec(x)["x_hat"], usual), "the fast way again"
    everywhere = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: seen.append(type(module))
    )
    codec(x)
    everywhere.remove()
    assert torch.nn.ConvTranspose2d in seen
    codec.g_a[0].forward = torch.zeros_like
    assert codec._fast is not None and codec._fast.of(codec.g_a, x) is None


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_normed_by_a_hook_are_computed_anew() -> None:
    codec, x = ready_codec(), maps(40, 70)
    torch.nn.utils.weight_norm(codec.g_s[-1]).requires_grad_(False)
    with torch.no_grad():
        before = codec(x)["x_hat"]
        codec.g_s[-1].weight_g.data.mul_(2)
        after = codec(x)["x_hat"]
        assert not torch.allclose(after, before)
        assert torch.equal(after, plain(codec)(x)["x_hat"])


class Louder(torch.nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = 2 * super().forward(x)
        return result


@torch.no_grad()
def test_own_forward_of_a_chain_of_layers_is_what_runs() -> None:
    codec, x = ready_codec(), maps(40, 70)
    codec.g_s = Louder(*codec.g_s)
    assert_close(codec(x)["x_hat"], plain(codec)(x)["x_hat"])
