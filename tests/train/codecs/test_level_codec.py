"""The codec decodes from real bytes exactly what its eval-mode forward gives, for any map."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.models import FactorizedPrior
from compressai.models.utils import conv, deconv

from configs.errors import ConfigError
from configs.schema.training import ModelConfig
from tests.support.tiny_codecs import (
    HYPERPRIORS,
    NAMES,
    NUM_CHANNELS,
    PROVENANCE,
    features,
    largest_error,
    ready_codec,
    tiny_codec,
    tiny_model,
)
from tests.support.tiny_study import tiny_config
from tests.support.weight_changes import CHANGES
from train.codecs.catalogue import build_codec
from train.codecs.layers.compressai_parts import EntropyModel
from train.codecs.level_codec import LevelCodec
from train.loop.session import make_optimizers
from train.objective.rate_distortion import rate_bits, rate_distortion
from train.runs.checkpoint import encode_checkpoint, load_codec

SIZES_HW = [(13, 21), (1, 1), (16, 16), (3, 4)]


@pytest.fixture
def codec() -> LevelCodec:
    return ready_codec()


@pytest.mark.parametrize(("height", "width"), SIZES_HW)
@torch.no_grad()
def test_decoded_bytes_are_the_eval_output(codec: LevelCodec, height: int, width: int) -> None:
    x = features(height, width)
    expected = codec(x)["x_hat"]
    packed = codec.compress(x)
    decoded = codec.decompress(packed["strings"], packed["shape"], packed["size"])["x_hat"]
    assert decoded.shape == x.shape == expected.shape
    assert packed["size"] == (height, width)
    assert packed["shape"] == (-(-height // 16), -(-width // 16))
    assert len(packed["strings"]) == 2
    assert largest_error(decoded, expected) < 1e-5
    assert float(expected.min()) < -1.0, "the output has to leave [0, 1] for this to prove much"


@torch.no_grad()
def test_latents_outside_the_coding_tables_come_back_too(codec: LevelCodec) -> None:
    x = features(48, 48)
    codec.g_a[6].weight.mul_(300)
    latents = codec.g_a(codec.standardised(x))
    assert float(latents.abs().max()) > int(codec.entropy_bottleneck._cdf_length.max())
    packed = codec.compress(x)
    decoded = codec.decompress(packed["strings"], packed["shape"], packed["size"])["x_hat"]
    assert largest_error(decoded, codec(x)["x_hat"]) < 1e-5


@torch.no_grad()
def test_a_sample_has_the_same_string_alone_and_in_a_batch(codec: LevelCodec) -> None:
    x = features(32, 48, batch=3)
    together = codec.compress(x)["strings"]
    assert [codec.compress(sample[None])["strings"][0] for sample in x] == together


@torch.no_grad()
def test_standardisation_is_undone_at_the_output() -> None:
    plain, scaled = tiny_codec(), tiny_codec()
    mean, variance = np.linspace(-3, 3, NUM_CHANNELS), np.linspace(0.1, 9, NUM_CHANNELS)
    plain.set_standardisation(np.zeros(NUM_CHANNELS), np.ones(NUM_CHANNELS))
    scaled.set_standardisation(mean, variance)
    shift = torch.from_numpy(mean).float()[:, None, None]
    scale = torch.from_numpy(variance).float().sqrt()[:, None, None]
    x = torch.randn(2, NUM_CHANNELS, 16, 32, generator=torch.Generator().manual_seed(1))
    expected = plain(x)["x_hat"] * scale + shift
    assert largest_error(scaled(x * scale + shift)["x_hat"], expected) < 1e-5


@torch.no_grad()
def test_channel_that_never_varies_comes_back_as_its_mean() -> None:
    codec = tiny_codec()
    variance = np.ones(NUM_CHANNELS)
    variance[3] = 0.0
    codec.set_standardisation(np.full(NUM_CHANNELS, 7.0), variance)
    x_hat = codec(torch.full((1, NUM_CHANNELS, 5, 7), 7.0))["x_hat"]
    assert torch.allclose(x_hat[:, 3], torch.tensor(7.0), atol=1e-4)


@torch.no_grad()
def test_codec_is_compressais_factorized_prior_with_other_ends() -> None:
    torch.manual_seed(0)
    codec = build_codec(ModelConfig(), 256).eval()
    reference = FactorizedPrior(128, 192)
    reference.g_a[0], reference.g_s[6] = conv(256, 128), deconv(128, 256)
    own = {k: v for k, v in codec.state_dict().items() if k not in ("mean", "std")}
    assert {k: v.shape for k, v in own.items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    reference.load_state_dict(own)
    x = torch.randn(1, 256, 32, 48, generator=torch.Generator().manual_seed(2))
    mine = theirs = x
    for number in range(7):
        mine, theirs = codec.g_a[number](mine), reference.g_a[number](theirs)
        assert torch.equal(mine, theirs), f"g_a layer {number}"
    ours, expected = codec(x), reference.eval()(x)
    assert torch.allclose(ours["x_hat"], expected["x_hat"], atol=1e-6)
    assert torch.equal(ours["likelihoods"]["y"], expected["likelihoods"]["y"])


def test_coding_before_update_tables_says_what_to_call() -> None:
    codec = tiny_codec()
    with pytest.raises(RuntimeError, match=r"call update_tables\(\) before"):
        codec.compress(features(16, 16))
    with pytest.raises(RuntimeError, match=r"call update_tables\(\) before"):
        codec.decompress([[b""]], (1, 1), (16, 16))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "best_model.pth"
    path.write_bytes(
        encode_checkpoint(
            tiny_codec().state_dict(), tiny_config(), PROVENANCE,
            levels=(2,), epoch=5, best_validation_loss=0.25,
        )
    )  # fmt: skip
    return path


@torch.no_grad()
def test_reloaded_checkpoint_writes_and_reads_the_same_strings(
    checkpoint: Path, codec: LevelCodec
) -> None:
    x = features(13, 21)
    packed = codec.compress(x)
    for _ in range(2):
        reloaded, _ = load_codec(checkpoint)
        assert reloaded.compress(x)["strings"] == packed["strings"]
        decoded = reloaded.decompress(packed["strings"], packed["shape"], packed["size"])
        assert torch.equal(decoded["x_hat"], reloaded(x)["x_hat"])


def test_checkpoint_knows_its_run(checkpoint: Path) -> None:
    codec, info = load_codec(checkpoint)
    assert (info.level, info.lmbda, info.epoch, info.best_validation_loss) == (2, 0.001, 5, 0.25)
    assert info.config == tiny_config()
    assert info.cache_fingerprint == PROVENANCE.cache_fingerprint
    assert info.num_parameters == sum(p.numel() for p in codec.parameters())
    assert info.model_sha256 == load_codec(checkpoint)[1].model_sha256
    assert not codec.training


def test_damaged_or_missing_checkpoint_is_one_clear_error(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"not a checkpoint"):
        checkpoint.write_bytes(damaged)
        with pytest.raises(ConfigError, match="not a checkpoint of train-level, or damaged"):
            load_codec(checkpoint)
    checkpoint.unlink()
    with pytest.raises(ConfigError, match="no such checkpoint: run train-level first"):
        load_codec(checkpoint)


@pytest.mark.parametrize("name", NAMES)
def test_real_bits_are_within_1_percent_of_the_estimate_plus_a_few_bytes(name: str) -> None:
    torch.manual_seed(0)
    config = tiny_config(learning_rate=5e-3, lmbda=0.01)
    codec = build_codec(tiny_model(name), NUM_CHANNELS)
    optimizer, aux_optimizer = make_optimizers(codec, config)
    smooth = torch.randn(1, NUM_CHANNELS, 40, 40, generator=torch.Generator().manual_seed(3))
    x = torch.nn.functional.interpolate(smooth, scale_factor=4, mode="bilinear")
    sizes = torch.tensor([[160, 160]])
    for _ in range(60):
        optimizer.zero_grad()
        aux_optimizer.zero_grad()
        rate_distortion(codec(x), x, sizes, config.training.lmbda)[0].backward()
        optimizer.step()
        codec.aux_loss().backward()
        aux_optimizer.step()
    codec.eval().update_tables()
    with torch.no_grad():
        estimated = float(rate_bits(codec(x)["likelihoods"]))
        payloads = codec.compress(x)["strings"][0]
    num_real_bits = 8 * sum(len(payload) for payload in payloads)
    ends_bits = 8 * 2 * len(payloads)
    assert estimated > 100 * ends_bits, "a map too small proves nothing"
    assert abs(num_real_bits - estimated) <= 0.01 * estimated + ends_bits


@pytest.mark.parametrize("change", ["in place", "by their data", "fused Adam", "other parameters"])
@torch.no_grad()
def test_tables_of_other_weights_than_those_of_now_code_nothing(
    codec: LevelCodec, change: str
) -> None:
    x = features(16, 16)
    strings = codec.compress(x)["strings"]
    CHANGES[change](codec.entropy_bottleneck)
    for use in (lambda: codec.compress(x), lambda: codec.decompress(strings, (1, 1), (16, 16))):
        with pytest.raises(RuntimeError, match=r"entropy_bottleneck have changed: call update_tab"):
            use()
    codec.update_tables()
    packed = codec.compress(x)
    decoded = codec.decompress(packed["strings"], packed["shape"], packed["size"])
    assert torch.equal(decoded["x_hat"], codec(x)["x_hat"])


@torch.no_grad()
def test_tables_move_with_the_weights_but_not_through_another_precision(codec: LevelCodec) -> None:
    x = features(16, 16)
    strings = codec.compress(x)["strings"]
    codec.to(memory_format=torch.channels_last)
    codec.double().float()
    codec.share_memory()
    assert codec.compress(x)["strings"] == strings
    codec.bfloat16().float()
    with pytest.raises(RuntimeError, match="have changed"):
        codec.compress(x)


@pytest.mark.parametrize(
    ("name", "change"),
    [("joint_autoregressive", change) for change in sorted(CHANGES.keys() - {"rounded"})]
    + [(name, "fused Adam") for name in HYPERPRIORS[:2]],
)
@torch.no_grad()
def test_hyperprior_codes_with_the_side_networks_of_now(name: str, change: str) -> None:
    codec, x = ready_codec(name), features(40, 24)
    before = codec.compress(x)["strings"]
    for network in (codec.h_s, *codec.children()):
        if not isinstance(network, EntropyModel) and network not in (codec.g_a, codec.g_s):
            CHANGES[change](network)
    packed = codec.compress(x)
    decoded = codec.decompress(packed["strings"], packed["shape"], packed["size"])["x_hat"]
    fresh = deepcopy(codec)
    fresh.update_tables()
    assert packed["strings"] == fresh.compress(x)["strings"] != before
    assert torch.equal(decoded, codec(x)["x_hat"])
