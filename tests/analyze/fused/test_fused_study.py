"""Runs of all levels in one are measured as their files are, and stand beside pyramids."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyze.allocation.search import Target
from analyze.choosing import measured_split
from analyze.curves.approach_figures import approach_curves
from analyze.curves.comparison import BY_APPROACH, compare
from analyze.facts.approaches import FUSED, SPECIFIC
from analyze.facts.kept_results import Kept
from analyze.facts.results import AnalysisResult
from analyze.foretell import foretell
from analyze.fused.fused_study import FusedFinding, study_fused
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.find_runs import run_folders, trained_runs
from analyze.measure.model_cost import positions_per_image
from analyze.measure.split import open_split
from analyze.request import Wanted
from analyze.streams.compression import compress_cache
from analyze.streams.decompression import decompress_folder
from analyze.streams.ensemble import ensemble_of_runs
from configs.errors import ConfigError
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from tests.support.analysis import analyse, request_of
from tests.support.tiny_study import TinyStudy
from train.codecs.fused_pyramid import FusedPyramid
from train.loop.job import Job
from train.loop.run import train_level
from train.runs.loaded_models import LoadedModels
from train.runs.run_record import RunRecord


def fused_job(study: TinyStudy, out: Path, *, lmbda: float = 0.01, seed: int = 0) -> Job:
    changed = {"lmbda": lmbda, "seed": seed, "epochs": 1, "crop": 16}
    training = study.config.training.model_copy(update=changed)
    return Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level="fused", out=out,
        config=study.config.model_copy(update={"training": training}), device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of two lambdas, the second with two seeds."""
    out = tmp_path_factory.mktemp("fused")
    ways = ((0.001, 0), (0.01, 0), (0.01, 1))
    return [train_level(fused_job(study, out, lmbda=lmbda, seed=seed)) for lmbda, seed in ways]


def studied(
    study: TinyStudy, runs: list[Path], scratch: Path, kept: Kept
) -> tuple[tuple[FusedFinding, ...], tuple[str, ...]]:
    models = LoadedModels()
    scratch.mkdir()
    cache = CacheFolder(study.val_cache)
    with open_split(
        cache, "val", study.config, device="cpu", limit=None, classes=(), options=""
    ) as split:
        found = trained_runs(runs, split.cache, models)
        assert (found.special, found.random, found.shared) == ((), (), ())
        decoded = DecodedLevels(scratch, split.readers, split.num_images, models)
        measured = measured_split(split, [], decoded, models, kept)
        fused = study_fused(
            found.fused, split, decoded, measured.overhead, measured.detection, models, kept
        )
    return fused.result, fused.missing


@pytest.fixture(scope="module")
def report(study: TinyStudy, runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of analyze-levels on these runs alone; what was measured is kept beside it."""
    folder = tmp_path_factory.mktemp("analysed") / "report"
    result = analyse(study, runs[0].parents[1], folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def findings(
    study: TinyStudy, runs: list[Path], report: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FusedFinding, ...]:
    kept = Kept(report.parent / "kept")
    with pytest.MonkeyPatch.context() as patched:  # nothing is measured or decoded again
        patched.setattr("analyze.fused.fused_rate_distortion._code", None)
        patched.setattr(DecodedLevels, "_decode", None)
        found, missing = studied(study, runs, tmp_path_factory.mktemp("scratch") / "1", kept)
    assert not missing
    return found


def test_bits_are_those_of_the_files_and_errors_those_of_the_decoded_cache(
    study: TinyStudy, runs: list[Path], findings: tuple[FusedFinding, ...], tmp_path: Path
) -> None:
    cache = CacheFolder(study.val_cache)
    ensemble = ensemble_of_runs([runs[0]], cache.manifest.levels)
    sizes = compress_cache(cache, ensemble, tmp_path / "streams", show_progress=False)
    decoded = decompress_folder(tmp_path / "streams", tmp_path / "decoded", show_progress=False)
    first = findings[0]
    assert first.combination.bits_per_pixel == pytest.approx(sizes.bits_per_pixel)
    assert first.combination.parts == {**dict.fromkeys(range(4), str(runs[0])), 4: "derived"}
    for level, measurement in first.levels.items():
        with LevelReader(cache, level) as here, LevelReader(decoded.cache, level) as there:
            errors = [
                np.square(there.sample(index).astype(np.float64) - here.sample(index)).mean()
                for index in range(sizes.num_images)
            ]
            weights = here.shapes[:, :2].prod(axis=1)
        assert measurement.mse == pytest.approx(np.average(errors, weights=weights), rel=1e-3)


def test_each_run_is_a_line_and_those_of_several_seeds_are_one_point(
    findings: tuple[FusedFinding, ...], runs: list[Path]
) -> None:
    assert [each.run for each in findings] == list(map(str, runs))
    assert [each.combination.name for each in findings] == [
        "all levels fused, lambda 0.001, level 4 derived",
        "all levels fused, lambda 0.01, seed 0, level 4 derived",
        "all levels fused, lambda 0.01, seed 1, level 4 derived",
    ]
    assert {each.combination.over_seeds for each in findings[1:]} == {
        "all levels fused, lambda 0.01, level 4 derived"
    }
    assert all(each.combination.is_planned for each in findings), "points of their way's curve"
    assert {each.combination.approach for each in findings} == {FUSED}
    points = approach_curves(each.combination for each in findings)[FUSED].points
    assert {point.label for point in points} == {
        "all levels fused, lambda 0.001, level 4 derived",
        "all levels fused, lambda 0.01, level 4 derived",
    }
    of_seeds = [each.combination.bits_per_pixel or 0.0 for each in findings[1:]]
    assert sum(of_seeds) / 2 in [pytest.approx(point.bits_per_pixel) for point in points]


def test_pyramids_of_ours_are_compared_with_it(findings: tuple[FusedFinding, ...]) -> None:
    pyramid = replace(
        findings[0].combination, name="all levels, lambda 1", learner="", approach=SPECIFIC
    )
    result = AnalysisResult(
        dataset="", split="", detector="", num_images=3, rows=(), original=None,
        combinations=(pyramid, *(each.combination for each in findings)),
    )  # fmt: skip
    (comparison,) = (each for each in compare(result, ()) if each.what == BY_APPROACH)
    assert [delta.anchor for delta in comparison.deltas] == [FUSED]


def test_maps_that_had_to_go_are_decoded_again_as_they_were(
    study: TinyStudy, runs: list[Path], findings: tuple[FusedFinding, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(DecodedLevels, "new", lambda decoded, run: None)
    (again,), _ = studied(study, runs[:1], tmp_path / "1", Kept(None))
    assert again.combination.accuracy == findings[0].combination.accuracy


def test_dry_run_counts_what_has_not_been_measured_and_each_pyramid(
    study: TinyStudy, runs: list[Path], report: Path, tmp_path: Path
) -> None:
    request = request_of(study, runs[0].parents[1], limit=2)
    wanted = Wanted(target=Target(kind="mse", value=1.0))
    stages = foretell(request, wanted, tmp_path, Kept(None)).stages
    times = {each.name: each.times for each in stages}
    assert times["coding, all levels in one"] == 3
    assert all(each.seconds_each > 0 for each in stages)
    known = foretell(replace(request, limit=None), wanted, tmp_path, Kept(report.parent / "kept"))
    assert "coding, all levels in one" not in {each.name for each in known.stages}


def test_runs_of_other_levels_are_named(
    study: TinyStudy, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = LoadedModels.info
    monkeypatch.setattr(
        LoadedModels, "info", lambda models, run: replace(info(models, run), levels=(0, 1))
    )
    found, (line,) = studied(study, runs[:1], tmp_path / "1", Kept(None))
    assert not found
    assert "codes the levels [0, 1] in one, of this cache [0, 1, 2, 3] are to be sent" in line


def test_the_report_shows_runs_of_all_levels_beside_the_others(
    runs: list[Path], report: Path
) -> None:
    assert run_folders(runs[0].parents[1], []) == sorted(runs)
    with (report / "fused.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == list(map(str, runs))
    assert all(float(row["mse_level_3"]) > 0 for row in rows)
    with (report / "detection.csv").open() as file:
        names = [row["features"] for row in csv.DictReader(file)]
    assert "all levels fused, lambda 0.001, level 4 derived" in names


def test_the_four_ways_have_its_figures_and_what_it_takes(
    runs: list[Path], report: Path, findings: tuple[FusedFinding, ...]
) -> None:
    with (report / "four_ways.csv").open() as file:
        ways = {row["figure"]: row["fused"] for row in csv.DictReader(file)}
    finding = findings[0]
    assert float(ways["bits_per_pixel"]) <= max(
        each.combination.bits_per_pixel or 0.0 for each in findings
    )
    assert float(ways["mse"]) in [pytest.approx(each.combination.mse) for each in findings]
    assert float(ways["loss"]) > float(ways["mse"])
    assert (ways["models"], ways["decoded_bytes"]) == ("1", "0")
    assert int(ways["parameters"]) == finding.levels[0].num_parameters
    assert float(ways["encoder_macs_per_image"]) == finding.cost.encoder_macs_per_image > 0
    assert float(ways["decoder_macs_per_image"]) == finding.cost.decoder_macs_per_image > 0
    seconds = [RunRecord.load(run).seconds for run in runs]
    assert float(ways["training_seconds"]) in [pytest.approx(each) for each in seconds]


def test_decoder_takes_as_many_operations_as_are_counted_by_hand(
    study: TinyStudy, runs: list[Path], findings: tuple[FusedFinding, ...]
) -> None:
    codec = LoadedModels().codec(runs[0])
    assert isinstance(codec, FusedPyramid)
    inner, latents, stages = codec.size.n_hidden, codec.size.n_channels, codec.size.stages
    # Of a position of the finest level: 5x5 from each grid to the next finer one, and GDN there.
    by_hand = sum(
        (25 * inner * (inner if stage else latents) + 4 * inner**2) / 4 ** (stages - stage)
        for stage in range(stages)
    )
    by_hand += sum(
        inner * channels / stride**2
        for channels, stride in zip(
            codec.pyramid.num_channels, codec.pyramid.strides, strict=True
        )
    )  # fmt: skip
    first, _, second, _, third = codec.h_s
    for layer, grid in ((first, stages + 2), (second, stages + 1), (third, stages)):
        by_hand += layer.weight.numel() / 4**grid
    with LevelReader(CacheFolder(study.val_cache), 0) as reader:
        positions = positions_per_image(reader, codec.stride)
    assert findings[0].cost.decoder_macs_per_image == pytest.approx(positions * by_hand)


def test_a_single_level_is_not_asked_of_it(runs: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"\(--level fused\) where one of a single level"):
        LoadedModels().info(runs[0]).level  # noqa: B018
