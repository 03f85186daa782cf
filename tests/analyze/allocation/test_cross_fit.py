"""What images choose for themselves flatters; cross-fitted it does not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from analyze.allocation.allocate import AllocationFinding, allocate, cross_fitted
from analyze.allocation.choice import MeasuredSplit
from analyze.allocation.folds import folds_of
from analyze.allocation.image_evidence import ImageEvidence
from analyze.allocation.search import Target
from analyze.curves.seed_spread import spread_of
from analyze.facts.candidates import Candidate
from analyze.facts.results import Measurement
from analyze.facts.sent_parts import ImageCosts, MeasuredRun, Part
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.split import Split
from analyze.streams.unsent_levels import overhead_of
from extract.accuracy.bootstrap import Accuracy

NUM_IMAGES, NUM_RUNS = 40, 8
LOSS = 0.1  # of every run, in truth
SHAPE = (4, 4, 2)


class Lucky:
    """Detection of which each image loses something by each run: the same, and its own luck."""

    def __init__(self, losses: Mapping[str, NDArray[Any]]) -> None:
        self.losses = losses
        self.derivations: dict[int, Any] = {}

    def prepare(self, combinations: Iterable[Mapping[int, Part]]) -> None:
        pass

    def drop_on(self, parts: Mapping[int, Part], image_ids: Collection[int]) -> float:
        return float(self.of(parts)[list(image_ids)].mean())

    def of(self, parts: Mapping[int, Part]) -> NDArray[Any]:
        part = parts.get(0)
        if part is None:
            return np.zeros(NUM_IMAGES)
        return self.losses[part.kind if part.run is None else part.run.folder.name]

    def accuracy(self, parts: Mapping[int, Part]) -> Accuracy:
        return of_drop(self.drop_on(parts, range(NUM_IMAGES)))

    def class_ap(self, parts: Mapping[int, Part]) -> tuple[float, ...]:
        return ()

    def pooled(self, choices: Any) -> tuple[Accuracy, tuple[float, ...]]:
        losses = np.full(NUM_IMAGES, np.nan)
        for parts, image_ids in choices:
            losses[image_ids] = self.of(parts)[image_ids]
        return of_drop(float(losses.mean())), ()


def of_drop(drop: float) -> Accuracy:
    return Accuracy(map=1 - drop, map_50=1.0, small=-1, medium=-1, large=-1, drop=drop)


def split_of_one_level() -> Split:
    samples = [
        SimpleNamespace(image_id=n, height=8, width=8 + n % 3, bucket=0, file=f"{n}.png")
        for n in range(NUM_IMAGES)
    ]
    info = SimpleNamespace(index=0, derived_from=None)
    manifest = SimpleNamespace(
        split="val", samples=samples, levels=[info], derived_levels=set(),
        sample_shape=lambda level, bucket: SHAPE,
    )  # fmt: skip
    statistics = SimpleNamespace(mean=np.zeros(2), variance=np.full(2, 9.0))
    reader = SimpleNamespace(
        info=info, statistics=statistics, shapes=np.tile(SHAPE, (NUM_IMAGES, 1))
    )
    return cast(Split, SimpleNamespace(
        manifest=manifest, readers={0: reader}, num_images=NUM_IMAGES,
        means=SimpleNamespace(of=lambda level: np.zeros(2)),
        facts=lambda: {0: SimpleNamespace(share=1.0)},
    ))  # fmt: skip


def run_of(number: int, mse: float) -> MeasuredRun:
    """A run of a learner of its own, so that no curve smoothes its luck away."""
    measurement = Measurement(
        run=f"run_{number}", lmbda=0.1, num_parameters=1, mse=mse, value_range=1.0, psnr_db=1.0,
        estimated_bpp=1.0, real_bpp=1.0, payload_bpp=1.0, bits_per_pixel=1.0, encode_ms=1.0,
        decode_ms=1.0,
    )  # fmt: skip
    candidate = Candidate(
        folder=Path(f"run_{number}"), level=0, lmbda=0.1, best_validation_loss=1.0,
        model=f"model_{number}", model_sha256=f"{number:064x}",
    )  # fmt: skip
    costs = ImageCosts(
        bits=64 + np.arange(NUM_IMAGES) % 5,
        squared_error=np.full(NUM_IMAGES, mse * np.prod(SHAPE)),
    )
    return MeasuredRun(run=candidate, measurement=measurement, of_images=costs)


def measured_by_luck(seed: int) -> MeasuredSplit:
    generator = np.random.default_rng(seed)
    losses = {
        f"run_{number}": LOSS + 0.2 * generator.standard_normal(NUM_IMAGES)
        for number in range(NUM_RUNS)
    }
    split = split_of_one_level()
    return MeasuredSplit(
        split=split,
        runs=tuple(run_of(number, 1.0) for number in range(NUM_RUNS)),
        overhead=overhead_of(split.manifest, range(NUM_IMAGES)),
        detection=cast(DetectionStudy, Lucky(losses | {"dropped": np.full(NUM_IMAGES, 0.9)})),
    )


def fitted(measured: MeasuredSplit, target: Target) -> AllocationFinding:
    files = [each.file for each in measured.split.manifest.samples]
    evidence = ImageEvidence(measured, {0: np.full(NUM_IMAGES, 9.0 * np.prod(SHAPE))})
    found = allocate(measured, measured, (), target)
    assert found.result is not None
    crossed = cross_fitted(found.result, measured, evidence, folds_of(files, 5), ())
    assert crossed.missing == ()
    return crossed.result


def test_map_that_images_choose_by_their_own_luck_is_too_high_and_cross_fitted_it_is_not() -> None:
    drops, honest, optimism = [], [], []
    for seed in range(12):
        found = fitted(measured_by_luck(seed), Target(kind="bpp", value=4.0))
        assert found.cross_fit is not None and found.cross_fit.optimism is not None
        assert found.combination.accuracy is not None and found.honest.accuracy is not None
        drops.append(found.combination.accuracy.drop)
        honest.append(found.honest.accuracy.drop)
        optimism.append(found.cross_fit.optimism)
    error = 0.2 / np.sqrt(NUM_IMAGES * len(drops))
    assert np.mean(drops) < LOSS - 4 * error  # of eight alike the luckiest was taken
    assert np.mean(honest) == pytest.approx(LOSS, abs=3 * error)
    assert np.mean(optimism) == pytest.approx(np.mean(honest) - np.mean(drops))


def test_bits_and_errors_of_all_folds_are_those_of_the_images() -> None:
    found = fitted(measured_by_luck(0), Target(kind="bpp", value=4.0))
    assert found.cross_fit is not None
    images = [image for fold in found.cross_fit.folds for image in fold.images]
    assert sorted(images) == list(range(NUM_IMAGES))
    # All runs cost the same, whoever is chosen.
    assert found.honest.bits_per_pixel == pytest.approx(
        sum(64 + n % 5 for n in range(NUM_IMAGES)) / sum(8 * (8 + n % 3) for n in range(NUM_IMAGES))
        + found.shared_bits_per_pixel
    )
    assert found.cross_fit.mse == pytest.approx(1.0)
    assert found.honest.name == "allocated for a bits per pixel of 4, cross-fitted over 5 folds"


def test_what_all_folds_choose_alike_is_what_all_images_choose_and_has_no_optimism() -> None:
    measured = measured_by_luck(1)
    one = replace(measured, runs=measured.runs[:1])
    found = fitted(one, Target(kind="bpp", value=4.0))
    assert found.cross_fit is not None
    assert found.cross_fit.optimism == pytest.approx(0)
    assert found.honest.parts == found.combination.parts == {0: "run_0"}


def test_without_detection_the_error_chooses_and_bits_and_error_are_cross_fitted() -> None:
    measured = replace(measured_by_luck(2), detection=None)
    found = fitted(measured, Target(kind="mse", value=2.0))
    assert found.cross_fit is not None
    assert (found.honest.accuracy, found.cross_fit.optimism) == (None, None)
    assert found.cross_fit.mse == pytest.approx(1.0)


def test_images_that_choose_without_any_box_are_a_line() -> None:
    measured = measured_by_luck(3)
    found = allocate(measured, measured, (), Target(kind="bpp", value=4.0)).result
    assert found is not None
    losses = cast(Lucky, measured.detection)
    losses.drop_on = lambda parts, image_ids: float("nan")  # type: ignore[method-assign]
    evidence = ImageEvidence(measured, {0: np.ones(NUM_IMAGES)})
    crossed = cross_fitted(found, measured, evidence, [range(20), range(20, 40)], ())
    assert crossed.result is found
    assert crossed.missing == (
        "no cross-fitting: the 20 images that choose hold no box that counts: name fewer folds",
    )


def test_each_seed_has_an_allocation_of_its_own_runs_and_its_own_cross_fitted_figures() -> None:
    measured = measured_by_luck(4)
    runs = tuple(
        replace(each, run=replace(each.run, model=f"model_{number % 4}", seed=number // 4))
        for number, each in enumerate(measured.runs)
    )
    folds = folds_of([each.file for each in measured.split.manifest.samples], 5)
    errors = {0: np.full(NUM_IMAGES, 9.0 * np.prod(SHAPE))}
    found = []
    for own in replace(measured, runs=runs).by_seed():
        assert {each.run.seed for each in own.runs} == {own.seed}
        allocated = allocate(own, own, (), Target(kind="bpp", value=4.0)).result
        assert allocated is not None
        found.append(cross_fitted(allocated, own, ImageEvidence(own, errors), folds, ()).result)
    first, second = found
    assert [each.combination.name for each in found] == [
        f"allocated for a bits per pixel of 4, seed {seed}" for seed in (0, 1)
    ]
    over = {each.honest.over_seeds for each in found}
    assert over == {"allocated for a bits per pixel of 4, cross-fitted over 5 folds"}
    assert (first.honest.seed, second.honest.seed) == (0, 1)
    spread = spread_of([first.honest, second.honest])
    assert spread.seeds == (0, 1) and spread.map is not None
    assert spread.map.low < spread.map.mean < spread.map.high
