"""Latent rates, histograms and pictures of a real level and a tiny codec."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from analyze.plots.level_details import latent_rates, map_pictures, value_histogram
from configs.schema.training import ModelConfig
from data.reading.level_reader import LevelReader
from tests.support.tiny_study import TinyStudy
from train.codecs.catalogue import build_codec
from train.codecs.level_codec import LevelCodec
from train.objective.rate_distortion import rate_bits

INDICES = (0, 2)


@pytest.fixture
def reader(study: TinyStudy) -> Iterator[LevelReader]:
    with LevelReader(study.val_cache, 2) as opened:
        yield opened


def codec_for(reader: LevelReader, name: str) -> LevelCodec:
    """An untrained codec with the level's own standardisation."""
    torch.manual_seed(1)
    settings = ModelConfig.model_validate({"name": name, "n_hidden": 8, "n_channels": 12})
    codec = build_codec(settings, reader.shape(0)[2])
    codec.set_standardisation(reader.statistics.mean, reader.statistics.variance)
    return codec.eval()


class HalvedMaps:
    """A MapSource: the cached maps times one half."""

    def __init__(self, reader: LevelReader) -> None:
        self._reader = reader

    def read(self, index: int) -> np.ndarray:
        return np.asarray(self._reader.sample(index), dtype=np.float32) / 2


@pytest.mark.parametrize(
    ("name", "latents"),
    [("factorized_prior_specific_level", {"y": 12}), ("scale_hyperprior", {"y": 12, "z": 8})],
)
def test_latent_rates_add_up_to_the_estimated_rate(
    reader: LevelReader, name: str, latents: dict[str, int]
) -> None:
    codec = codec_for(reader, name)
    found = latent_rates(codec, reader, INDICES)
    assert {rate.name: len(rate.bits_per_position) for rate in found} == latents
    bits, positions = 0.0, 0
    for index in INDICES:
        values = torch.from_numpy(np.array(reader.sample(index), dtype=np.float32))
        with torch.no_grad():
            output = codec(values.permute(2, 0, 1)[None])
        bits += float(rate_bits(output["likelihoods"]).sum())
        positions += values.shape[0] * values.shape[1]
    total = sum(rate.bits_per_position.sum() for rate in found)
    assert total == pytest.approx(bits / positions, rel=1e-5)


def test_rates_of_no_samples_are_refused(reader: LevelReader) -> None:
    with pytest.raises(ValueError, match="no samples"):
        latent_rates(codec_for(reader, "factorized_prior_specific_level"), reader, ())


def test_histogram_counts_every_value_of_both_in_the_same_bins(reader: LevelReader) -> None:
    found = value_histogram(reader, HalvedMaps(reader), INDICES)
    values = np.concatenate([np.ravel(reader.sample(index)) for index in INDICES]).astype(float)
    assert len(found.edges) == 65
    assert found.edges[0] == reader.statistics.minimum.min()
    assert found.edges[-1] == reader.statistics.maximum.max()
    assert found.before.tolist() == np.histogram(values, bins=found.edges)[0].tolist()
    assert found.after.tolist() == np.histogram(values / 2, bins=found.edges)[0].tolist()
    assert found.before.sum() == found.after.sum() == values.size


def test_decoded_value_beyond_the_cached_range_is_in_the_outermost_bin(
    reader: LevelReader,
) -> None:
    class FarMaps(HalvedMaps):
        def read(self, index: int) -> np.ndarray:
            return np.full(self._reader.shape(index), 1e6, dtype=np.float32)

    found = value_histogram(reader, FarMaps(reader), (0,))
    assert found.after[-1] == np.prod(reader.shape(0))
    assert found.after[:-1].sum() == 0


def test_pictures_of_one_kind_share_their_scale() -> None:
    before = np.zeros((4, 6, 3), dtype=np.float16)
    before[..., 0] = 1
    before[..., 2] = -8
    after = before / 2
    mean, strongest, second = map_pictures(before, after, num_channels=2)
    assert [each.title for each in (mean, strongest, second)] == [
        "mean |x| over channels",
        "channel 2",
        "channel 0",
    ]
    assert mean.scale == 3 and not mean.is_signed
    assert (mean.before == 255).all() and (mean.after == 128).all()
    assert (mean.difference == 128).all()
    # -8, -4 and +4 on the scale from -8 to 8.
    assert strongest.scale == 8 and strongest.is_signed
    assert (strongest.before == 0).all()
    assert (strongest.after == 64).all()
    assert (strongest.difference == 191).all()
    assert second.before.shape == (4, 6) and second.before.dtype == np.uint8


def test_perfect_copy_has_no_difference_and_one_outlier_does_not_darken_the_rest() -> None:
    before = np.ones((64, 64, 1), dtype=np.float32)
    before[0, 0] = 1e4
    mean, channel = map_pictures(before, before)
    assert mean.scale == 1 and (mean.before == 255).all()
    assert (mean.difference == 0).all()
    assert set(np.unique(channel.difference)) == {128}


def test_map_of_zeros_has_pictures() -> None:
    nothing = np.zeros((2, 2, 1), dtype=np.float32)
    mean, _ = map_pictures(nothing, nothing)
    assert mean.scale == 1 and (mean.before == 0).all()


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="before and"):
        map_pictures(np.zeros((2, 2, 1)), np.zeros((2, 3, 1)))
