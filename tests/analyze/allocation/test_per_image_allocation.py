"""What an analysis says of images that choose themselves is what their files are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyze.allocation import choice
from analyze.allocation.allocate import allocate
from analyze.allocation.image_evidence import dropped_errors
from analyze.allocation.lagrangian import Option
from analyze.allocation.per_image_allocation import per_image_allocation
from analyze.allocation.search import Target
from analyze.allocation.weighed_ways import weighed_ways
from analyze.analysis import runs_of
from analyze.choosing import measured_split
from analyze.facts.candidates import Candidate
from analyze.facts.kept_results import Kept
from analyze.image_choice.per_image_compression import compress_per_image
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.split import open_split
from analyze.request import AnalysisRequest
from analyze.streams.decompression import decompress_folder
from analyze.streams.ensemble import DerivedLevel, PredictedLevel
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from tests.support.coded_study import make_chain, make_run
from tests.support.tiny_study import TinyStudy
from train.runs.loaded_models import LoadedModels

MODEL = "factorized_prior_specific_level"


def test_files_that_are_chosen_by_the_analysis_ways_have_the_bits_and_errors_that_it_says(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "dropped_error", lambda *_: 1e4)  # untrained models are worse
    runs = make_chain(tmp_path / "chain", study, MODEL, range(1, 4))
    runs += [
        make_run(tmp_path / "alone" / f"run_{level}", study, level, seed=5) for level in (0, 2)
    ]
    asked = AnalysisRequest(cache=study.val_cache, split="val", config=study.config, run_dirs=runs)
    models, cache = LoadedModels(), CacheFolder(study.val_cache)
    with open_split(
        cache, "val", study.config, device="cpu", limit=None, classes=(), options=""
    ) as split:
        decoded = DecodedLevels(tmp_path, split.readers, split.num_images, models)
        measured = replace(
            measured_split(
                split, runs_of(asked, split, models), decoded, models, Kept(None),
                image_by_image=True,
            ),
            detection=None,  # which takes long
        )  # fmt: skip
        allocation = allocate(measured, measured, [], Target(kind="bpp", value=1e3)).result
        assert allocation is not None and allocation.weighed.ways.distortion == "MSE"
        bits = allocation.combination.bits_per_pixel
        assert bits is not None
        dropped = dropped_errors(split, Kept(None), "cpu")
        found = per_image_allocation(
            measured, allocation.weighed, dropped, 0.9 * bits, "val"
        ).result
    assert found is not None
    sent = compress_per_image(
        cache, allocation.weighed.ways, tmp_path / "sent", slope=found.slope, models=models,
        show_progress=False,
    )  # fmt: skip
    assert found.combination.bits_per_pixel == pytest.approx(sent.bits_per_pixel)
    assert sent.bits_per_pixel <= 0.9 * bits
    decompress_folder(tmp_path / "sent", tmp_path / "decoded", models=models, show_progress=False)
    error, elements = 0.0, 0
    for level in range(4):  # level 4's error is told as its source's
        with (
            LevelReader(cache, level) as original,
            LevelReader(tmp_path / "decoded" / "val", level) as restored,
        ):
            for number in range(3):
                values = np.array(original.sample(number), dtype=np.float64)
                error += float(np.square(values - restored.sample(number)).sum())
                elements += values.size
    assert found.mse == pytest.approx(error / elements, rel=0.02)


def option(level: int, name: str, mse: float, drop: float | None, **more: object) -> Option:
    return Option(level=level, name=name, bits_per_pixel=1.0, mse=mse, map_drop=drop, **more)


def run(name: str, level: int, *, is_predicted: bool = False) -> Candidate:
    folder = Path(name) / "predicted_from_level_1" if is_predicted else Path(name)
    return Candidate(
        folder=folder, level=level, lmbda=0.1, best_validation_loss=1.0, model_sha256="0" * 64,
        is_predicted=is_predicted,
    )  # fmt: skip


def test_weight_is_what_the_allocation_takes_a_way_to_cost_by_unit_of_its_error() -> None:
    runs = {"a": run("a", 1), "b": run("b", 0, is_predicted=True)}
    options = [
        option(0, "b", 2.0, 0.1, run="b", beside=(1, "a")),
        option(0, "dropped", 4.0, 0.8, kind="dropped"),
        option(1, "a", 0.5, -0.2, run="a"),
        option(2, "derived from a", 0.5, 0.1, kind="derived", source=(1, "a")),
        option(2, "dropped", 1.0, 0.3, kind="dropped"),
    ]
    found = weighed_ways(options, runs, {})
    assert found.ways.distortion == "mAP"
    assert [(way.level, way.weight, way.beside) for way in found.ways.each] == [
        (2, 0.3, None), (2, 0.2, None), (1, 0.0, None), (0, 0.05, 2), (0, 0.2, None),
    ]  # fmt: skip
    assert found.runs == (None, None, "a", "b", None)
    assert found.ways.each[1].how == DerivedLevel(source=1)
    assert isinstance(found.ways.each[3].how, PredictedLevel)
    without = weighed_ways(
        [replace(each, map_drop=None) for each in options], runs, dict.fromkeys(range(3), 0.25)
    )
    assert without.ways.distortion == "MSE"
    assert {way.weight for way in without.ways.each} == {0.25}
