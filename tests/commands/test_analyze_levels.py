"""analyze-levels on real caches and real runs, whole and with pieces missing."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from analyze.allocation.search import Target
from analyze.analysis import runs_of
from analyze.anchors import anchor_study
from analyze.choosing import find_allocations, measured_split, open_choosing
from analyze.cli import analyze_levels
from analyze.facts.kept_results import Kept
from analyze.facts.results import ChosenBy
from analyze.foretell import foretell
from analyze.measure import level_rate_distortion
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.split import open_split
from analyze.request import AnalysisRequest, Wanted
from analyze.streams.ensemble import CodedLevel, read_ensemble
from configs.errors import ConfigError
from data.cache.annotations import read_annotations, write_annotations
from data.cache.cache_folder import CacheFolder
from data.cache.commit_log import CommitLog
from data.cache.manifest import Manifest
from data.images.records import ImageSet
from extract.cli import extract_features
from tests.support.chromium import needs_chromium, screenshot
from tests.support.coded_study import compress
from tests.support.extraction import error_of
from tests.support.openings import of_name, openings
from tests.support.own_anchor import write_anchor
from tests.support.tiny_study import TinyStudy, extract_tiny, save_detector, study, with_detector
from train.cli import train_level
from train.runs.checkpoint import load_codec
from train.runs.loaded_models import LoadedModels

ROOT = Path(__file__).parents[2]
README_PICTURE = "docs/report.png"

__all__ = ["study"]


@pytest.fixture(scope="module")
def checkpoints(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all five levels at lambda 0.001, and of level 4 at 0.01 as well."""
    out = tmp_path_factory.mktemp("runs")
    common = ["--config", str(study.config_file), "--features", str(study.root), "--out", str(out)]
    for arguments in (["--level", "all"], ["--level", "4", "--lambda", "0.01"]):
        result = CliRunner().invoke(train_level, [*common, *arguments])
        assert result.exit_code == 0, result.output
    return out


def analyse(
    study: TinyStudy, checkpoints: Path, report: Path, *more: str, features: Path | None = None
) -> Result:
    arguments: Sequence[str] = (
        "--config", str(study.config_file), "--features", str(features or study.root),
        "--checkpoints", str(checkpoints), "--report", str(report),
        "--kept", str(report.parent / "kept"), "--anchors", "none", *more,
    )  # fmt: skip
    return CliRunner().invoke(analyze_levels, list(arguments))


def rows_of(report: Path) -> list[dict[str, str]]:
    with (report / "levels.csv").open() as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Reported:
    """A report of everything that takes no video coder, and what was printed."""

    folder: Path
    kept: Path
    output: str
    opened: Counter[Path]


@pytest.fixture(scope="module")
def reported(
    study: TinyStudy, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Reported:
    parent = tmp_path_factory.mktemp("reports")
    with openings() as counted:
        result = analyse(
            study, checkpoints, parent / "report", "--kept", str(parent / "kept"),
            "--anchors", "uniform,float16", "--matrix", "--sensitivity", "--suggest-lambda",
            "--target-bpp", "1000", "--cross-fit", "3",
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    return Reported(
        folder=parent / "report", kept=parent / "kept", output=result.output, opened=counted
    )


def test_each_checkpoint_and_manifest_is_read_once_and_each_log_hashed_and_parsed(
    study: TinyStudy, checkpoints: Path, reported: Reported
) -> None:
    runs = [path.parent.resolve() for path in checkpoints.rglob("best_model.pth")]
    caches = [study.train_cache.resolve(), study.val_cache.resolve()]
    assert len(runs) == 6
    assert of_name(reported.opened, "best_model.pth") == dict.fromkeys(runs, 1)
    assert of_name(reported.opened, "manifest.json") == dict.fromkeys(caches, 1)
    assert of_name(reported.opened, "commits.jsonl") == dict.fromkeys(caches, 2)


def test_report_has_every_level_and_lambda_with_real_rates_and_map(reported: Reported) -> None:
    rows = rows_of(reported.folder)
    assert [(int(row["level"]), float(row["lambda"])) for row in rows] == [
        (0, 0.001), (1, 0.001), (2, 0.001), (3, 0.001), (4, 0.001), (4, 0.01),
    ]  # fmt: skip
    for row in rows:
        assert float(row["real_bpp"]) > float(row["estimated_bpp"]) > 0
        assert float(row["encode_ms"]) > 0
        assert row["map"] != ""
    assert sum(float(row["share"]) for row in rows[:5]) == pytest.approx(1)
    assert "original features" in reported.output
    assert "all levels, lambda 0.001" in reported.output
    assert f"tables, curves and pictures: {reported.folder / 'index.html'}" in reported.output
    told = [
        line for line in reported.output.splitlines() if not line.startswith(("missing:", "next"))
    ]
    assert len([line for line in told if " INFO " not in line]) <= 10, told


def test_every_table_is_a_csv_and_everything_is_in_one_json(
    study: TinyStudy, reported: Reported
) -> None:
    names = {path.stem for path in reported.folder.glob("*.csv")}
    assert names == {
        "levels", "detection", "allocation", "bd", "anchors", "matrix", "model_costs",
        "sensitivity", "worst_images", "classes", "cross_fit", "equal_map",
    }  # fmt: skip
    content = json.loads((reported.folder / "report.json").read_text())
    assert content["result"]["num_images"] == 3
    assert content["allocation"]["combination"]["accuracy"]["interval"] is not None
    assert content["result"]["original"]["map"] == pytest.approx(
        np.mean(content["result"]["class_ap"])
    )
    assert {each["anchor"] for each in content["anchors"]} == {"uniform", "float16"}
    samples = Manifest.load(study.val_cache).samples
    inputs = sum(each.input_height * each.input_width for each in samples)
    ratio = sum(each.height * each.width for each in samples) / inputs
    for each in (*content["anchors"], content["allocation"]["combination"]):
        assert each["bits_per_input_pixel"] == pytest.approx(each["bits_per_pixel"] * ratio)
    assert content["comparisons"][0]["deltas"][0]["overlap"] >= 0
    assert len(content["matrix"]["entries"]) == 5
    assert content["sensitivity"]["groups"].keys() == {"0", "1", "2", "3", "4"}
    assert {"before", "after", "truth"} <= content["worst_images"]["images"][0].keys()
    assert len(content["worst_images"]["images"]) == 3
    assert content["allocation"]["tried"]
    assert [each["level"] for each in content["levels"]] == [0, 1, 2, 3, 4]
    for each in content["levels"]:
        (rate,) = each["latent_rates"]
        assert len(rate["bits_per_position"]) == study.config.model.n_channels
        assert sum(each["histogram"]["before"]) == sum(each["histogram"]["after"]) > 0
    assert set(content["files"]) >= {path.name for path in reported.folder.glob("*.csv")}


def test_matrix_has_a_row_for_each_model_and_a_loss_on_each_level(reported: Reported) -> None:
    with (reported.folder / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trained_for"] for row in rows] == [f"level {level}" for level in range(5)]
    assert all(float(row[f"level_{level}"]) > 0 for row in rows for level in range(5))


def test_allocation_is_an_ensemble_of_runs_that_are_there(reported: Reported) -> None:
    ensemble = read_ensemble(reported.folder / "ensemble.yaml").levels
    assert sorted(ensemble) == [0, 1, 2, 3, 4]
    for each in ensemble.values():
        if isinstance(each, CodedLevel):
            _, info = load_codec(each.run / "best_model.pth")
            assert info.model_sha256 == each.model_sha256


def test_cross_fitted_figures_are_of_all_images_each_held_out_once(
    study: TinyStudy, reported: Reported
) -> None:
    content = json.loads((reported.folder / "report.json").read_text())
    found = content["allocation"]
    fitted, samples = found["cross_fit"], Manifest.load(study.val_cache).samples
    held = [image for fold in fitted["folds"] for image in fold["images"]]
    assert sorted(held) == sorted(sample.image_id for sample in samples)
    names = [each["name"] for each in content["result"]["combinations"]]
    assert names[-1] == "allocated for a bits per pixel of 1000, cross-fitted over 3 folds"
    both = found["combination"], fitted["combination"]
    drops = [each["accuracy"]["drop"] for each in both]
    assert fitted["optimism"] == pytest.approx(drops[1] - drops[0])
    assert both[1]["accuracy"]["interval"] is not None
    choices = [
        {option["level"]: option["run"] or option["kind"] for option in choice["options"]}
        for choice in (fold["allocation"]["combination"] for fold in fitted["folds"])
    ]
    if all(choice == both[0]["parts"] for choice in map(str_keys, choices)):
        assert both[1]["bits_per_pixel"] == pytest.approx(both[0]["bits_per_pixel"])
        assert drops[1] == pytest.approx(drops[0])


def test_fewer_than_two_folds_are_refused_in_python_too() -> None:
    for number in (1, -1):
        with pytest.raises(ConfigError, match=f"--cross-fit {number}: use 2 folds or more"):
            Wanted(target=Target(kind="bpp", value=1.0), cross_fit=number)


def str_keys(choice: dict[int, str]) -> dict[str, str]:
    return {str(level): part for level, part in choice.items()}


def test_choice_of_another_split_is_measured_on_this_one(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    # Of any error at all: nothing is sent, and each split's files have their own bits for that.
    wanted = Wanted(target=Target(kind="mse", value=1e9), choose_on="train")
    request = request_of(study, checkpoints, limit=1)
    models, cache, kept = LoadedModels(), CacheFolder(study.val_cache), Kept(None)
    with (
        open_choosing(request, wanted, cache, "cpu") as choosing,
        open_split(cache, "val", study.config, device="cpu", limit=1, options="") as split,
    ):
        decoded = DecodedLevels(tmp_path, split.readers, 1, models)
        measured = measured_split(split, runs_of(request, split, models), decoded, models, kept)
        found = find_allocations(choosing, measured, (), wanted.target, models, kept, tmp_path)
    assert found.missing == ()
    (allocated,) = found.result
    chosen, there = allocated.combination, allocated.allocation.combination
    assert chosen.name == "allocated for a MSE of 1e+09, chosen on train, measured on val"
    assert chosen.chosen_by == ChosenBy(
        split="train", num_images=1, measured_on="val", num_measured=1
    )
    assert set(chosen.parts.values()) <= {"dropped", "derived"}
    assert chosen.bits_per_pixel == measured.overhead.total(allocated.parts)
    assert allocated.allocation.verified_drop is not None
    assert there.cost > 0


def test_files_of_the_ensemble_have_the_bits_that_the_report_says(
    study: TinyStudy, reported: Reported, tmp_path: Path
) -> None:
    found = json.loads((reported.folder / "report.json").read_text())["allocation"]
    result = compress(study, tmp_path / "streams", "--ensemble", reported.folder / "ensemble.yaml")
    assert result.exit_code == 0, result.output
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "streams" / "images").iterdir())
    samples = Manifest.load(study.val_cache).samples
    pixels = sum(sample.height * sample.width for sample in samples)
    assert found["combination"]["bits_per_pixel"] == pytest.approx(8 * num_bytes / pixels)


def test_weights_of_the_sensitivity_train_a_channel_weighted_codec(
    study: TinyStudy, reported: Reported, tmp_path: Path
) -> None:
    weights = reported.folder / "channel_weights.json"
    result = CliRunner().invoke(train_level, [
        "--config", str(study.config_file), "--features", str(study.root),
        "--out", str(tmp_path), "--level", "4", "--set", "training.distortion=channel_weighted",
        "--set", f"training.channel_weights={weights}",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output


def request_of(study: TinyStudy, checkpoints: Path, **more: Any) -> AnalysisRequest:
    return AnalysisRequest(
        cache=study.val_cache, split="val", config=study.config, checkpoints=checkpoints, **more
    )


def test_dry_run_has_every_stage_its_counts_and_the_bytes_and_writes_nothing(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    wanted = Wanted(target=Target(kind="map_drop", value=0.01))
    request = request_of(study, checkpoints)
    there = sorted(path.stat().st_mtime_ns for path in study.root.rglob("*"))
    forecast = foretell(request, wanted, tmp_path / "report", Kept(tmp_path / "kept"))
    assert [(each.name, each.times) for each in forecast.stages] == [
        ("checking the cache", 1),
        *((f"coding, level {level}", 1 + (level == 4)) for level in range(5)),
        # As cached, six runs alone, the pyramid with and without level 4, and each level gone.
        ("heads, 15 combinations", 1),
        ("allocation, at most", 8),
    ]
    assert all(each.seconds_each > 0 for each in forecast.stages)
    sizes = {
        info.index: 2 * sum(
            int(np.prod(study_manifest.sample_shape(info.index, sample.bucket)))
            for sample in study_manifest.samples
        )
        for study_manifest in [Manifest.load(study.val_cache)]
        for info in study_manifest.levels
    }  # fmt: skip
    assert forecast.scratch_bytes == sum(sizes.values()) + sizes[4]
    assert forecast.fits
    assert forecast.memory_bytes > forecast.scratch_bytes
    assert forecast.gpu_bytes is None
    assert not list(tmp_path.iterdir())
    assert sorted(path.stat().st_mtime_ns for path in study.root.rglob("*")) == there


def test_dry_run_leaves_out_what_is_kept(
    study: TinyStudy, checkpoints: Path, reported: Reported, tmp_path: Path
) -> None:
    wanted = Wanted(target=Target(kind="mse", value=1.0))
    forecast = foretell(request_of(study, checkpoints), wanted, tmp_path, Kept(reported.kept))
    assert [(each.name, each.times) for each in forecast.stages] == [
        ("checking the cache", 1),
        ("allocation, at most", 1),
    ]


def test_dry_run_is_an_option_and_makes_no_report_folder(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = SimpleNamespace(table=lambda: "about an hour")
    monkeypatch.setattr("analyze.foretell.foretell", lambda *_: short)
    result = analyse(study, checkpoints, tmp_path / "report", "--dry-run")
    assert (result.exit_code, result.output) == (0, "about an hour\n")
    assert not list(tmp_path.iterdir())


def test_second_analysis_uses_what_the_first_measured(
    study: TinyStudy,
    checkpoints: Path,
    reported: Reported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undrawn: None,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("analyze.measure.level_rate_distortion.measure_level", refuse)
    monkeypatch.setattr("analyze.anchors.anchor_study.measure_anchor", refuse)
    monkeypatch.setattr("analyze.detection.split_evaluator.detect_from_levels", refuse)
    result = analyse(
        study, checkpoints, tmp_path / "report", "--kept", str(reported.kept),
        "--anchors", "uniform,float16", "--target-bpp", "1000",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert rows_of(tmp_path / "report") == rows_of(reported.folder)


def correct_boxes(features: Path) -> None:
    """Leave out the first box of each image."""
    path = features / "val" / "annotations.json"
    images = read_annotations(path, "val")
    records = tuple(
        replace(
            record, boxes_xyxy=record.boxes_xyxy[1:], category_ids=record.category_ids[1:],
            ignored=record.ignored[1:], areas_px=None,
        )
        for record in images.records
    )  # fmt: skip
    write_annotations(path, replace(images, records=records))


def lose_the_train_cache(features: Path) -> None:
    shutil.rmtree(features / "train")


def add_to_the_commits(features: Path) -> None:
    """As a sample does that was found damaged and is mended."""
    with CommitLog(features / "val") as log:
        log.mark_damaged({0: ()})


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda features: None, set()),
        (correct_boxes, {"anchors"}),  # detections are kept as boxes, and compared anew
        (lose_the_train_cache, {"detection"}),  # its means stood for the levels that are dropped
        (add_to_the_commits, {"levels", "anchors", "detection"}),
    ],
    ids=["nothing", "boxes", "means", "features"],
)
def test_kept_results_are_used_for_nothing_but_what_they_were_measured_on(
    study: TinyStudy,
    checkpoints: Path,
    reported: Reported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undrawn: None,
    change: Callable[[Path], None],
    again: set[str],
) -> None:
    features, kept = tmp_path / "features", tmp_path / "kept"
    shutil.copytree(study.root, features)
    shutil.copytree(reported.kept, kept)
    change(features)
    measured = set()

    def note(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any, **more: Any) -> Any:
            measured.add(what)
            return function(*arguments, **more)

        return noting

    study_anchor = anchor_study._measure_point
    measure_level = level_rate_distortion.measure_level
    monkeypatch.setattr(level_rate_distortion, "measure_level", note("levels", measure_level))
    monkeypatch.setattr(anchor_study, "_measure_point", note("anchors", study_anchor))
    run = DetectionStudy._run
    monkeypatch.setattr(DetectionStudy, "_run", note("detection", run))
    result = analyse(
        study, checkpoints, tmp_path / "report", "--kept", str(kept), "--anchors", "uniform",
        "--target-bpp", "1000", features=features,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert measured == again


def test_damaged_cache_is_refused_and_nothing_of_it_is_kept(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, undrawn: None
) -> None:
    features = tmp_path / "features"
    shutil.copytree(study.root, features)
    files = [path for path in (features / "val" / "level_3.zarr").rglob("*") if path.is_file()]
    shard = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[1000] ^= 64
    shard.write_bytes(content)
    result = analyse(study, checkpoints, tmp_path / "report", features=features)
    assert result.exit_code == 1
    assert "level 3" in result.output.splitlines()[-1]
    assert "samples are damaged" in result.output.splitlines()[-1]
    for option in ("--verify", "--log-level=warning"):
        CliRunner().invoke(extract_features, [
            "--config", str(study.config_file), "--features", str(features), "--split", "val",
            option,
        ])  # fmt: skip
    result = analyse(study, checkpoints, tmp_path / "report", features=features)
    assert result.exit_code == 0, result.output
    whole = analyse(study, checkpoints, tmp_path / "whole", "--kept", str(tmp_path / "fresh"))
    assert whole.exit_code == 0, whole.output
    columns = ("level", "lambda", "mse", "real_bpp", "map")
    assert [[row[name] for name in columns] for row in rows_of(tmp_path / "report")] == [
        [row[name] for name in columns] for row in rows_of(tmp_path / "whole")
    ]


def test_what_cannot_be_had_in_the_end_does_not_cost_the_report(
    study: TinyStudy, tmp_path: Path, undrawn: None
) -> None:
    out = tmp_path / "runs"
    result = CliRunner().invoke(train_level, [
        "--config", str(study.config_file), "--features", str(study.root), "--out", str(out),
        "--level", "4", "--lambda", "0", "--epochs", "1",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    (run,) = out.glob("*/run_*")
    (run / "run.json").unlink()
    result = analyse(study, out, tmp_path / "report", "--matrix", "--suggest-lambda")
    assert result.exit_code == 0, result.output
    assert "missing: no next lambda: level 4: no run of a lambda above 0" in result.output
    assert "missing: no matrix of models and levels: " in result.output
    assert (tmp_path / "report" / "index.html").is_file()


@pytest.mark.parametrize(
    ("target", "reasons"),
    [
        (("--target-mse", "0.5"), ["MSE 0.5 lies"] * 5),
        (("--target-map-drop", "0.5"), ["MSE "] * 5),
        ((), ["there is only lambda"] * 4 + ["the largest gap of the curve"]),
    ],
)
def test_next_lambdas_aim_at_the_target_that_is_named(
    study: TinyStudy,
    checkpoints: Path,
    reported: Reported,
    tmp_path: Path,
    undrawn: None,
    target: tuple[str, ...],
    reasons: list[str],
) -> None:
    result = analyse(
        study, checkpoints, tmp_path / "report", "--kept", str(reported.kept), "--suggest-lambda",
        *target,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    suggestions = json.loads((tmp_path / "report" / "report.json").read_text())["suggestions"]
    assert [each["level"] for each in suggestions] == [0, 1, 2, 3, 4]
    for each, reason in zip(suggestions, reasons, strict=True):
        assert each["why"].startswith(reason)
        assert f"--level {each['level']} --lambda {each['lmbda']:g}" in result.output


def test_bits_of_a_target_are_shared_out_as_the_allocation_shares_its_own(
    reported: Reported,
) -> None:
    content = json.loads((reported.folder / "report.json").read_text())
    chosen = content["allocation"]["chosen"]
    coded = [option for option in chosen["options"] if option["run"] is not None]
    assert [each["level"] for each in content["suggestions"]] == [each["level"] for each in coded]
    bits = {row["run"]: float(row["real_bpp"]) for row in rows_of(reported.folder)}
    for option, suggestion in zip(coded, content["suggestions"], strict=True):
        # 1000 bits a pixel, where the allocation has spent fewer: each level's own bits grow alike.
        wanted = bits[option["run"]] * 1000 / chosen["bits_per_pixel"]
        assert suggestion["why"].startswith(f"bits per position {wanted:.4g} lies beyond the curve")
    for level in {0, 1, 2, 3, 4} - {option["level"] for option in coded}:
        assert f"missing: no next lambda: level {level}: is " in reported.output


def test_named_run_that_a_newer_one_replaces_is_told(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, undrawn: None
) -> None:
    (run,) = checkpoints.glob("*_level_3/run_*")
    older = tmp_path / "runs" / run.parent.name / f"run_20000101_000000{run.name[19:]}"
    shutil.copytree(run, older)
    result = analyse(study, checkpoints, tmp_path / "report", str(run), str(older))
    assert result.exit_code == 0, result.output
    assert f"missing: {older} is left out: {run} is of the same level" in result.output


@needs_chromium
def test_page_opens_in_chromium_without_an_error(reported: Reported, tmp_path: Path) -> None:
    for name, size, dark in (("wide", (1400, 1000), False), ("phone", (420, 900), True)):
        picture = tmp_path / f"{name}.png"
        lines = screenshot(reported.folder / "index.html", picture, *size, dark=dark)
        assert lines == []
        with Image.open(picture) as image:
            assert image.size == size
            ground = image.convert("RGB").getpixel((2, 2))
        assert ground == ((13, 17, 23) if dark else (255, 255, 255))


@needs_chromium
def test_readme_shows_the_first_screen_of_a_report(reported: Reported, tmp_path: Path) -> None:
    """With FPN_README_REPORT=<report folder> the picture is taken anew, of that report."""
    named = os.environ.get("FPN_README_REPORT")
    picture = tmp_path / "report.png"
    page = (Path(named) if named else reported.folder) / "index.html"
    assert screenshot(page, picture, 1280, 1000) == []
    with Image.open(picture) as image:
        image.convert("RGB").quantize(128).save(picture, optimize=True)
    if named:
        shutil.copy(picture, ROOT / README_PICTURE)
    assert f"]({README_PICTURE})" in (ROOT / "README.md").read_text(encoding="utf-8")
    with Image.open(picture) as image, Image.open(ROOT / README_PICTURE) as shown:
        assert shown.size == image.size


def test_decoded_maps_do_not_stay_on_disk(reported: Reported) -> None:
    assert not [path for path in reported.folder.rglob(".*") if path.is_dir()]


@pytest.mark.usefixtures("undrawn")
def test_anchor_of_ones_own_stands_in_the_report_by_its_name(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = write_anchor(tmp_path / "own_reported.py")
    report = tmp_path / "report"
    result = analyse(study, checkpoints, report, "--anchors", f"{name},float16", "--limit", "1")
    assert result.exit_code == 0, result.output
    content = json.loads((report / "report.json").read_text())
    assert {each["anchor"] for each in content["anchors"]} == {name, "float16"}
    assert "whole numbers" in (report / "index.html").read_text()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--target-bpp", "1", "--target-mse", "1"), "give one of them"),
        (("--anchors", "jpeg"), "--anchors jpeg: there is none of this name"),
        (("--cross-fit", "5"), "--cross-fit 5: there are 3 images: name fewer folds"),
        (("--cross-fit", "2", "--choose-on", "train"), "give one of them, not both"),
        (("--choose-on", "val"), "--choose-on val: is the split that is measured"),
        (("--choose-on", "test"), "no cache of the split 'test': run extract-features"),
    ],
)
def test_mistaken_option_is_one_line(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    result = analyse(study, checkpoints, tmp_path / "report", *options)
    assert result.exit_code == 1
    assert line in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "report").exists()


def test_without_a_val_cache_the_report_has_what_training_noted_and_the_command_to_run(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    result = analyse(study, checkpoints, report, "--split", "test")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"next: analyze-levels --split train {options_for(study)}\n")
    assert "missing: " in result.output
    assert "no cache of the split 'test': run extract-features --split test" in result.output
    assert "run extract-features --split test" in (report / "index.html").read_text()
    with (report / "trained.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["level"] for row in rows] == ["0", "1", "2", "3", "4", "4"]
    for row in rows:
        summary = (Path(row["run"]) / "training_summary.txt").read_text()
        assert f"Best Validation Loss: {float(row['loss']):.4f}" in summary
        assert f"Best Validation MSE: {float(row['mse']):.6f}" in summary
        assert f"Best Validation BPP: {float(row['estimated_bpp']):.6f}" in summary
    assert [row["stride_px"] for row in rows_of(report)] == ["4", "8", "16", "32", "64"]


def options_for(study: TinyStudy) -> str:
    return f"--config {study.config_file} --features {study.root}"


def first_lines(report: Path) -> tuple[str, str]:
    """What page and Markdown say first below their titles."""
    page = (report / "index.html").read_text(encoding="utf-8")
    text = (report / "report.md").read_text(encoding="utf-8")
    return page.partition("</h1><p>")[2].partition("</p>")[0], text.splitlines()[2]


def test_without_runs_the_report_is_there_and_its_first_line_is_what_to_type(
    study: TinyStudy, tmp_path: Path, undrawn: None
) -> None:
    result = analyse(study, tmp_path / "nowhere", tmp_path / "report")
    assert result.exit_code == 0, result.output
    step = f"train-level --level all {options_for(study)}"
    assert result.stdout.splitlines()[0] == f"next: {step}"
    assert all(
        line.startswith(f"Next: {step}. 3 images, ") for line in first_lines(tmp_path / "report")
    )
    assert "original features" in (tmp_path / "report" / "detection.csv").read_text()


def test_without_runs_and_val_cache_the_report_has_the_train_cache_s_levels(
    study: TinyStudy, tmp_path: Path, undrawn: None
) -> None:
    features = tmp_path / "features"
    features.mkdir()
    (features / "train").symlink_to(study.train_cache)
    result = analyse(study, tmp_path / "nowhere", tmp_path / "report", features=features)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == (
        f"next: extract-features --split val --config {study.config_file} --features {features}"
    )
    assert "missing: no level has a trained run: run train-level --level all" in result.stdout
    assert [row["stride_px"] for row in rows_of(tmp_path / "report")] == [
        "4",
        "8",
        "16",
        "32",
        "64",
    ]


def test_run_that_is_named_is_analysed_by_its_own_configuration(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    run = next(checkpoints.glob("*_level_4/run_*"))
    arguments = [run, "--features", study.root, "--report", tmp_path / "report", "--split"]
    options = [*map(str, arguments), "test", "--log-level", "warning"]
    # The built-in configuration has a split test, the run's own has not.
    result = CliRunner().invoke(analyze_levels, options)
    assert result.exit_code == 0, result.output
    config = run / "config.yaml"
    step = f"next: analyze-levels --split train --config {config} --features {study.root}\n"
    assert result.stdout.startswith(step)


def test_without_any_cache_the_error_is_one_line_with_the_command_to_run(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    result = analyse(study, checkpoints, tmp_path / "report", features=tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "run extract-features --split val" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_level_without_a_run_is_named_and_the_others_are_reported(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, undrawn: None
) -> None:
    fewer = tmp_path / "runs"
    shutil.copytree(checkpoints, fewer)
    shutil.rmtree(next(fewer.glob("*_level_2")))
    result = analyse(study, fewer, tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert "missing: level 2 has no trained run" in result.output
    assert "train-level --level 2" in result.output
    levels = {int(row["level"]): row["real_bpp"] for row in rows_of(tmp_path / "report")}
    assert levels[2] == ""
    assert levels[0] != ""


def without_categories(images: ImageSet) -> ImageSet:
    none = {"boxes_xyxy": np.zeros((0, 4), np.float32), "category_ids": np.zeros(0, np.int64)}
    records = (
        replace(record, **none, ignored=np.zeros(0, bool), areas_px=None)
        for record in images.records
    )
    return replace(images, records=tuple(records), categories={})


def all_ignored(images: ImageSet) -> ImageSet:
    records = (replace(r, ignored=np.ones(len(r.ignored), bool)) for r in images.records)
    return replace(images, records=tuple(records))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without_categories, "the split 'val' was extracted without boxes"),
        (all_ignored, "none of the 3 images has a box that counts"),
    ],
)
def test_split_without_boxes_gives_rates_and_says_why_there_is_no_map(
    study: TinyStudy,
    checkpoints: Path,
    tmp_path: Path,
    undrawn: None,
    change: Callable[[ImageSet], ImageSet],
    why: str,
) -> None:
    features = tmp_path / "features"
    shutil.copytree(study.root, features)
    path = features / "val" / "annotations.json"
    images = read_annotations(path, "val")
    write_annotations(path, change(images))
    result = analyse(study, checkpoints, tmp_path / "report", features=features)
    assert result.exit_code == 0, result.output
    assert f"missing: no mAP: {why}" in result.output
    (line,) = (line for line in result.stdout.splitlines() if f"no mAP: {why}" in line)
    assert result.stdout.splitlines()[0] == f"next: {line.rpartition(': ')[2]}"
    assert "missing: no allocation: a target of mAP needs boxes" in result.output
    assert all(row["map"] == "" and row["real_bpp"] for row in rows_of(tmp_path / "report"))


def test_runs_trained_on_another_detectors_features_are_refused(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    config = with_detector(study.config, save_detector(tmp_path / "other.pth", seed=1))
    extract_tiny(tmp_path / "features", config, ("val",))
    assert Manifest.load(tmp_path / "features" / "val").detector != (
        Manifest.load(study.val_cache).detector
    )
    result = analyse(
        study, checkpoints, tmp_path / "report",
        "--detection-checkpoint", str(tmp_path / "other.pth"), features=tmp_path / "features",
    )  # fmt: skip
    assert "was trained on features of detector weights" in error_of(result)


def test_folder_that_is_no_run_is_refused_by_name(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    result = analyse(study, checkpoints, tmp_path / "report", str(tmp_path))
    assert result.exit_code == 1
    assert str(tmp_path) in result.output


def test_refused_analysis_leaves_no_report_folder_behind(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    analyse(study, checkpoints, tmp_path / "report", features=tmp_path / "nowhere")
    assert not (tmp_path / "report").exists()


def test_report_folder_that_cannot_be_made_is_one_line(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = analyse(study, checkpoints, tmp_path / "file" / "report")
    assert error_of(result).endswith("choose another --report")
