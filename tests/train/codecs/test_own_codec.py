"""A codec of one's own is built by its name, brings its tables, comes back from a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.config_files import check_config
from configs.errors import ConfigError
from configs.schema.training import ModelConfig
from tests.support.tiny_codecs import NUM_CHANNELS, PROVENANCE, features
from train.codecs.catalogue import build_codec
from train.runs.checkpoint import encode_checkpoint, load_codec
from train.testing import check_codec

OWN = """
import math

import torch
from torch.distributions import Normal

from train.codecs.entropy.latent_coder import CodingTables, LatentDecoder, channel_indexes, encode
from train.codecs.factorized import FactorizedPrior
from train.codecs.layers.compressai_parts import EntropyModel, GaussianConditional
from train.codecs.level_codec import LevelCodec


class Wider(FactorizedPrior):
    def __init__(self, size, width=1):
        super().__init__(size)
        self.width = width


class Gaussians(torch.nn.Module):
    '''One Gaussian a channel, of mean 0; what lies beyond 5 deviations is coded by the escape.'''

    def __init__(self, num_channels):
        super().__init__()
        self.log_scales = torch.nn.Parameter(torch.zeros(num_channels))

    def likelihoods(self, values):
        normal = Normal(0.0, self.log_scales.exp()[:, None, None].clamp(0.2, 64.0))
        return (normal.cdf(values + 0.5) - normal.cdf(values - 0.5)).clamp(min=1e-9)

    def coding_tables(self):
        tables, first = [], []
        for scale in self.log_scales.detach().double().cpu().exp().clamp(0.2, 64.0).tolist():
            reach = math.ceil(5 * scale)
            symbols = torch.arange(-reach, reach + 1, dtype=torch.float64)
            normal = Normal(0.0, scale)
            tables.append((normal.cdf(symbols + 0.5) - normal.cdf(symbols - 0.5)).tolist())
            first.append(-reach)
        return CodingTables.of(tables, first)


class WithoutBottleneck(LevelCodec):
    '''Nothing of CompressAI's in its entropy model.'''

    def __init__(self, size):
        super().__init__(size)
        self.density = Gaussians(size.n_channels)

    def noisy_latents(self, y):
        noisy = self.with_noise(y)
        return noisy, {"y": self.density.likelihoods(noisy)}

    def rounded_latents(self, y):
        y_hat = torch.round(y)
        return y_hat, {"y": self.density.likelihoods(y_hat)}

    def encode_latents(self, y):
        symbols = torch.round(y)
        strings = encode(symbols, channel_indexes(y.shape), self.tables("density"))
        return [[string] for string in strings]

    def decode_latents(self, strings, shape):
        decoder = LatentDecoder([each for (each,) in strings], self.tables("density"))
        indexes = channel_indexes((len(strings), self.size.n_channels, *shape))
        symbols = decoder.next(indexes)
        decoder.finish()
        return symbols.float()


class Mixture(GaussianConditional):
    '''Other densities than those it derives from.'''


class WithoutTables(FactorizedPrior):
    def __init__(self, size):
        super().__init__(size)
        self.mixture = Mixture(None)


class Fails(FactorizedPrior):
    def __init__(self, size):
        raise ValueError("a width of 7 is odd")


class Unfinished(LevelCodec):
    def noisy_latents(self, y): ...

    def encode_latents(self, y): ...


def not_a_codec(size):
    return torch.nn.Linear(1, 1)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with own_codecs.py in it, as for a console script."""
    (tmp_path / "own_codecs.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_codecs", raising=False)
    return tmp_path


def model(name: str, **settings: Any) -> ModelConfig:
    return ModelConfig(name=f"own_codecs:{name}", n_hidden=8, n_channels=12, stages=2, **settings)


def test_options_are_the_keyword_arguments_of_the_class() -> None:
    assert build_codec(model("Wider"), NUM_CHANNELS).width == 1
    assert build_codec(model("Wider", options={"width": 5}), NUM_CHANNELS).width == 5


def test_an_entropy_model_of_ones_own_brings_its_tables_and_needs_no_bottleneck() -> None:
    check_codec("own_codecs:WithoutBottleneck")


@torch.no_grad()
def test_the_checkpoint_knows_the_codec_and_its_options(folder: Path) -> None:
    settings = model("Wider", options={"width": 5})
    config = check_config({"model": settings.model_dump(mode="json")}, "test")
    codec = build_codec(settings, NUM_CHANNELS).eval()
    path = folder / "best_model.pth"
    path.write_bytes(
        encode_checkpoint(
            codec.state_dict(), config, PROVENANCE, levels=(0,), epoch=1, best_validation_loss=1.0
        )
    )
    codec.update_tables()
    loaded, info = load_codec(path, trust_code=True)
    x = features(13, 21)
    assert (loaded.width, info.config.model.name) == (5, "own_codecs:Wider")
    assert loaded.compress(x)["strings"] == codec.compress(x)["strings"]

    (folder / "own_codecs.py").write_text(OWN.replace("self.width = width", "del self.g_s[0]"))
    del sys.modules["own_codecs"]
    with pytest.raises(ConfigError, match=r"best_model.pth: its weights do not fit own_codecs:Wi"):
        load_codec(path, trust_code=["own_codecs:Wider"])
    (folder / "own_codecs.py").rename(folder / "gone.py")
    del sys.modules["own_codecs"]
    with pytest.raises(ConfigError, match=r"best_model.pth: model.name: 'own_codecs:Wider' cannot"):
        load_codec(path, trust_code=["own_codecs:Wider"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "Wider",
            {"depth": 3},
            r"^model.options: \{'depth': 3\} do not fit own_codecs:Wider\(si",
        ),
        ("Fails", {}, r"'own_codecs:Fails' cannot be made: ValueError: a width .*, line \d+\)$"),
        ("Unfinished", {}, "is unfinished: write decode_latents, rounded_latents$"),
        ("not_a_codec", {}, "gives a Linear: derive it from train.codecs.level_codec.LevelCodec"),
        ("WithoutTables", {}, r"own_codecs.Mixture: an entropy model without .* coding_tables\(\)"),
        ("Absent", {}, "own_codecs.py has no 'Absent'"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        build_codec(model(name, options=options), NUM_CHANNELS)
    assert "\n" not in str(raised.value)
