"""All models keep one contract: what the decoder makes of the bytes is forward's eval output."""

from __future__ import annotations

from pathlib import Path

import compressai.models
import numpy as np
import pytest
import torch
from compressai.models.utils import conv, deconv
from torch import Tensor

from configs.config_files import check_config
from configs.errors import ConfigError
from configs.schema.training import MODEL_NAMES
from tests.support.forked import result_of
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
from tests.support.torch_cores import cores
from train.codecs.hyperprior import ScaleHyperprior
from train.codecs.level_codec import LevelCodec
from train.runs.checkpoint import encode_checkpoint, load_codec

COMPRESSAIS = {
    "factorized_prior_specific_level": compressai.models.FactorizedPrior,
    "scale_hyperprior": compressai.models.ScaleHyperprior,
    "mean_scale_hyperprior": compressai.models.MeanScaleHyperprior,
    "joint_autoregressive": compressai.models.JointAutoregressiveHierarchicalPriors,
}


def decoded(codec: LevelCodec, x: Tensor) -> Tensor:
    """What comes back of x from real bytes."""
    packed = codec.compress(x)
    return codec.decompress(packed["strings"], packed["shape"], packed["size"])["x_hat"]


def latents(codec: LevelCodec, x: Tensor) -> Tensor:
    """The latents y of x, before they are quantised."""
    y: Tensor = codec.g_a(codec.standardised(x))
    return y


@pytest.mark.parametrize("size_hw", [(13, 21), (1, 1), (3, 4), (40, 71)], ids=str)
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_decoded_bytes_are_bit_for_bit_the_eval_output(
    name: str, stages: int, size_hw: tuple[int, int]
) -> None:
    codec = ready_codec(name, stages)
    x = features(*size_hw)
    output = codec(x)
    assert torch.equal(decoded(codec, x), output["x_hat"])
    assert output["x_hat"].shape == x.shape
    assert output["x_hat"].dtype == torch.float32
    assert float(output["x_hat"].min()) < -1.0, "it has to leave [0, 1] for this to prove much"
    shape = tuple(-(-side // 2**stages) for side in size_hw)
    assert codec.compress(x)["shape"] == shape
    expected = {"y": (2, codec.num_latent_channels, *shape)}
    if name in HYPERPRIORS:
        expected["z"] = (2, 8, *(-(-side // 4) for side in shape))
    assert {key: tuple(each.shape) for key, each in output["likelihoods"].items()} == expected


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_channels_last_maps_and_weights_decode_to_the_eval_output_too(name: str) -> None:
    codec = ready_codec(name).to(memory_format=torch.channels_last)
    x = features(40, 71).to(memory_format=torch.channels_last)
    assert torch.equal(decoded(codec, x), codec(x)["x_hat"])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_sample_has_the_same_strings_alone_and_in_a_batch(name: str) -> None:
    codec = ready_codec(name)
    x = features(40, 71, batch=3)
    together = codec.compress(x)["strings"]
    assert [codec.compress(sample[None])["strings"][0] for sample in x] == together
    assert {len(payloads) for payloads in together} == {2 if name in HYPERPRIORS else 1}


@pytest.mark.parametrize("name", HYPERPRIORS)
@torch.no_grad()
def test_latents_do_not_depend_on_batch_threads_or_memory_format_of_the_decoder(name: str) -> None:
    codec = ready_codec(name)
    x = features(80, 136, batch=5)
    with cores(1):
        packed = codec.compress(x)
        expected, _ = codec.rounded_latents(latents(codec, x))
    other = ready_codec(name).to(memory_format=torch.channels_last)
    with cores(2):
        one_by_one = [
            other.decode_latents([strings], packed["shape"]) for strings in packed["strings"]
        ]
    assert torch.equal(torch.cat(one_by_one), expected)
    assert len(used_scales(codec, x)) > 20, "few different scales would prove little"


def used_scales(codec: LevelCodec, x: Tensor) -> list[int]:
    """Which tables of the Gaussians x needs."""
    assert isinstance(codec, ScaleHyperprior)
    y = latents(codec, x)
    z_hat = codec.round_to_medians(codec._hyper_latents(y))
    used: set[int] = set()

    def choose(places: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        used.update(codec._indexes(scales).flatten().tolist())
        return torch.zeros_like(means)

    codec._scan(z_hat, None, (y.shape[-2], y.shape[-1]), choose)
    return sorted(used)


def decode_packed(folders: list[Path]) -> None:
    """Save what is decoded of each folder's bytes by the codec beside them."""
    for folder in folders:
        codec, _ = load_codec(folder / "best_model.pth")
        packed = torch.load(folder / "packed.pt", weights_only=True)
        torch.save(codec.decompress(*packed)["x_hat"], folder / "decoded.pt")


@torch.no_grad()
def test_another_process_decodes_the_eval_output_from_the_checkpoint(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in NAMES]
    x = features(40, 71)
    for folder in folders:
        folder.mkdir()
        config = tiny_config()
        config = config.model_copy(update={"model": tiny_model(folder.name)})
        (folder / "best_model.pth").write_bytes(
            encode_checkpoint(
                tiny_codec(folder.name).state_dict(), config, PROVENANCE,
                levels=(0,), epoch=1, best_validation_loss=1.0,
            )
        )  # fmt: skip
        packed = ready_codec(folder.name).compress(x)
        torch.save((packed["strings"], packed["shape"], packed["size"]), folder / "packed.pt")
    result_of(decode_packed, folders)
    for folder in folders:
        there = torch.load(folder / "decoded.pt", weights_only=True)
        assert largest_error(there, ready_codec(folder.name)(x)["x_hat"]) < 1e-5, folder.name


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_latents_outside_the_coding_tables_come_back_too(name: str) -> None:
    codec = ready_codec(name)
    x = features(48, 48)
    codec.g_a[-1].weight.mul_(3000)
    assert float(latents(codec, x).abs().max()) > 10_000, "tables reach 1562 either side"
    assert torch.equal(decoded(codec, x), codec(x)["x_hat"])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_each_level_has_its_own_row_of_standardisation(name: str) -> None:
    shared = tiny_codec(name, num_levels=3)
    means = np.arange(3 * NUM_CHANNELS, dtype=np.float64).reshape(3, NUM_CHANNELS)
    variances = 1 + means
    shared.set_standardisation(means, variances)
    x = features(20, 30)
    for row in (2, 0, 1):
        shared.use_level(row)
        special = tiny_codec(name)
        special.set_standardisation(means[row], variances[row])
        assert torch.equal(shared(x)["x_hat"], special(x)["x_hat"])
    with pytest.raises(IndexError, match="level row 3: this codec has 3"):
        shared.use_level(3)
    with pytest.raises(ValueError, match="reshape"):
        shared.set_standardisation(means[0], variances[0])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_weights_are_those_of_compressais_model_with_other_ends(name: str) -> None:
    codec = tiny_codec(name)
    reference = COMPRESSAIS[name](8, 12)
    reference.g_a[0], reference.g_s[-1] = conv(NUM_CHANNELS, 8), deconv(8, NUM_CHANNELS)
    own = {k: v for k, v in codec.state_dict().items() if k not in ("mean", "std")}
    assert {k: v.shape for k, v in own.items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    reference.load_state_dict(own)
    if name == "joint_autoregressive":
        return  # its forward in eval mode is known to differ from its own decoder
    x = torch.randn(2, NUM_CHANNELS, 64, 128, generator=torch.Generator().manual_seed(4))
    codec.set_standardisation(np.zeros(NUM_CHANNELS), np.ones(NUM_CHANNELS))
    ours, theirs = codec(x), reference.eval()(x)
    for key, likelihoods in theirs["likelihoods"].items():
        # Means lie on a grid of 2**-10 here, so a latent in a thousand is rounded the other way.
        agree = torch.isclose(ours["likelihoods"][key], likelihoods, rtol=0.05, atol=1e-6)
        assert float(agree.float().mean()) > 0.99, key
    if name != "mean_scale_hyperprior":
        assert largest_error(ours["x_hat"], theirs["x_hat"]) < 1e-5


def test_configuration_and_registry_name_the_same_models() -> None:
    assert list(MODEL_NAMES) == NAMES


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ({"name": "hyperprior"}, r"mine.yaml: model.name: .* did you mean 'scale_hyperprior'\?"),
        ({"name": 3}, "mine.yaml: model.name: 3 is not allowed: Input should be a valid string"),
        (
            {"options": {"width": 3}},
            "mine.yaml: model.options: factorized_prior_specific_level has no options, .* remove",
        ),
        ({"fast_cpu": "nevr"}, r"model.fast_cpu: 'nevr' is not allowed: .* mean 'never'\?"),
        ({"stages": 5}, "mine.yaml: model.stages: 5 is not allowed"),
        ({"stages": 0}, "mine.yaml: model.stages: 0 is not allowed"),
    ],
    ids=str,
)
def test_unknown_name_or_number_of_stages_is_one_clear_line(
    model: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        check_config({"model": model}, "mine.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize(("encoder", "decoder"), [("cuda", "cpu"), ("cpu", "cuda")])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_streams_of_one_device_decode_to_the_same_latents_on_the_other(
    name: str, encoder: str, decoder: str
) -> None:
    there, here = (tiny_codec(name).to(device) for device in (encoder, decoder))
    there.update_tables()
    here.update_tables()
    x = features(80, 136, batch=5).to(encoder)
    packed = there.compress(x)
    expected, _ = there.rounded_latents(latents(there, x))
    assert torch.equal(there.decode_latents(packed["strings"], packed["shape"]), expected)
    together = here.decode_latents(packed["strings"], packed["shape"])
    one_by_one = [here.decode_latents([each], packed["shape"]) for each in packed["strings"]]
    assert torch.equal(together.cpu(), expected.cpu())
    assert torch.equal(torch.cat(one_by_one).cpu(), expected.cpu())
    decoded_here = here.decompress(packed["strings"], packed["shape"], packed["size"])["x_hat"]
    # The transforms themselves may compute in TF32 on a GPU.
    assert largest_error(decoded_here.cpu(), there(x)["x_hat"].cpu()) < 1e-2
