"""Noise is of the size asked for, and what it does to detection is kept and becomes weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analyze.detection.head_response import HeadResponse, few_proposals
from analyze.detection.sensitivity import (
    SensitivitySettings,
    measure_sensitivity,
    write_weights,
)
from analyze.facts.kept_results import Kept
from analyze.maps.replacements import NoisyMaps, water_filled
from configs.errors import ConfigError
from data.reading.level_reader import LevelReader
from tests.analyze.detection.test_heads_on_levels import BUILDERS, own_levels, small_detector
from tests.support.pyramids import split_evaluator
from tests.support.tiny_study import TinyStudy, tiny_config
from train.objective.catalogue import weights_of

QUICK = SensitivitySettings(mse_shares=(0.3, 1.0), num_groups=3, num_group_images=2)


@given(variance=st.lists(st.floats(0, 10), min_size=1, max_size=8), share=st.floats(0.01, 1.0))
def test_water_filling_gives_the_sum_asked_for_and_one_height_where_it_can(
    variance: list[float], share: float
) -> None:
    values = np.array(variance)
    errors = water_filled(values, share * values.sum())
    assert errors.sum() == pytest.approx(share * values.sum())
    assert (errors <= values).all()
    below_the_water = errors < values
    assert (errors[below_the_water] == errors.max()).all()


@given(seed=st.integers(min_value=0, max_value=2**32 - 1))
def test_errors_of_the_whole_variance_are_the_variances_in_whatever_order_they_are_summed(
    seed: int,
) -> None:
    variance = np.random.default_rng(seed).lognormal(0, 2, 256)
    for total in (variance.sum(), np.sort(variance).sum(), np.sort(variance)[::-1].sum()):
        np.testing.assert_allclose(water_filled(variance, float(total)), variance, rtol=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_noise_has_the_error_asked_for(study: TinyStudy, share: float) -> None:
    with LevelReader(study.val_cache, 0) as reader:
        variance = reader.statistics.variance
        errors = water_filled(variance, share * variance.sum())
        maps = NoisyMaps(reader, errors, seed=0)
        squares = [
            np.square(maps.read(i) - reader.sample(i).astype(np.float32)).reshape(-1, len(variance))
            for i in range(reader.num_samples)
        ]
        measured = np.concatenate(squares).mean(axis=0)
        assert measured.mean() == pytest.approx(errors.mean(), rel=0.03)
        if share == 1.0:
            mean = reader.statistics.mean.astype(np.float32)
            np.testing.assert_allclose(maps.read(0), np.broadcast_to(mean, reader.shape(0)),
                                       atol=1e-4)  # fmt: skip


def test_noise_is_the_same_each_time_and_another_for_another_seed_or_sample(
    study: TinyStudy,
) -> None:
    with LevelReader(study.val_cache, 2) as reader:
        errors = 0.3 * reader.statistics.variance
        first, again, other = (NoisyMaps(reader, errors, seed).read(1) for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("builder", list(BUILDERS))
def test_heads_of_every_family_change_with_a_level_and_more_with_more_noise(builder: str) -> None:
    detector = small_detector(builder)
    image = torch.rand(3, 75, 110, generator=torch.Generator().manual_seed(1))
    levels = own_levels(detector, image)
    response = HeadResponse(detector, levels, (75, 110), 50)
    noise = torch.randn(levels["0"].shape, generator=torch.Generator().manual_seed(2))
    small, large = (response.change("0", levels["0"] + size * noise) for size in (0.1, 1.0))
    assert response.change("0", levels["0"]) == pytest.approx(0.0, abs=1e-9)
    assert 0 < small < large


def test_number_of_proposals_comes_back_after_an_error() -> None:
    detector = small_detector("fasterrcnn_mobilenet_v3_large_fpn")
    usual = detector.rpn.post_nms_top_n()
    with pytest.raises(RuntimeError, match="inside"), few_proposals(detector, 7):
        assert detector.rpn.post_nms_top_n() == 7
        raise RuntimeError("inside")
    assert detector.rpn.post_nms_top_n() == usual


def test_detector_with_unknown_heads_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"neither \.rpn nor \.head: leave sensitivity out"):
        HeadResponse(torch.nn.Linear(1, 1), {}, (4, 4), 5)


def test_sensitivity_is_measured_once_and_its_weights_train(
    tmp_path: Path, study: TinyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path / "kept")
    with split_evaluator(study) as evaluator:
        sensitivity = measure_sensitivity(evaluator, kept, QUICK)

        def fail(*_: Any) -> Any:
            raise AssertionError("measured again")

        monkeypatch.setattr("analyze.detection.sensitivity.detect_from_levels", fail)
        assert measure_sensitivity(evaluator, kept, QUICK) == sensitivity
        with pytest.raises(AssertionError, match="measured again"):
            measure_sensitivity(evaluator, kept, SensitivitySettings(num_group_images=1))
        variances = {n: r.statistics.variance for n, r in evaluator.readers.items()}
    for level, points in sensitivity.levels.items():
        shares = [mse / variances[level].mean() for mse, _ in points]
        assert shares == pytest.approx([0.0, 0.3, 1.0])
        assert [group.size for group in sensitivity.groups[level]] == [85, 85, 86]
        assert all(group.change > 0 for group in sensitivity.groups[level])
    write_weights(tmp_path / "weights.json", sensitivity)
    settings = tiny_config(
        distortion="channel_weighted", channel_weights=str(tmp_path / "weights.json")
    ).training
    for level in range(5):
        with LevelReader(study.train_cache, level) as reader:
            weights = weights_of(settings, reader)
        np.testing.assert_allclose(weights, sensitivity.channel_weights(level))
        assert weights.mean() == pytest.approx(1.0)
