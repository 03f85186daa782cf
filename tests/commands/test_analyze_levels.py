"""analyze-levels on real caches and real runs: the whole report, and what of it is kept."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from analyze.allocation.search import Target
from analyze.anchors import anchor_study
from analyze.facts.kept_results import Kept
from analyze.foretell import foretell
from analyze.image_choice.ways import read_candidates
from analyze.measure import level_rate_distortion
from analyze.measure.detection_study import DetectionStudy
from analyze.request import Wanted
from analyze.streams.ensemble import CodedLevel, read_ensemble
from data.cache.manifest import Manifest
from tests.support.analysis import analyse, request_of, rows_of
from tests.support.changed_caches import add_to_the_commits, correct_boxes, lose_the_train_cache
from tests.support.chromium import needs_chromium, screenshot
from tests.support.coded_study import compress
from tests.support.openings import of_name
from tests.support.reported import Reported, reported
from tests.support.tiny_study import TinyStudy
from train.cli import train_level
from train.runs.checkpoint import load_codec

__all__ = ["reported"]

ROOT = Path(__file__).parents[2]
README_PICTURE = "docs/report.png"


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
    assert len([line for line in told if " INFO " not in line]) <= 12, (
        told
    )  # all that can be asked for was


def test_every_table_is_a_csv_and_everything_is_in_one_json(
    study: TinyStudy, reported: Reported
) -> None:
    names = {path.stem for path in reported.folder.glob("*.csv")}
    assert names == {
        "levels", "detection", "allocation", "bd", "anchors", "matrix", "model_costs",
        "sensitivity", "worst_images", "classes", "cross_fit", "equal_map", "four_ways",
        "per_image", "per_image_ways",
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
    assert names[-3] == "allocated for a bits per pixel of 1000, cross-fitted over 3 folds"
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


def test_images_that_choose_themselves_keep_within_the_targets_bits(reported: Reported) -> None:
    content = json.loads((reported.folder / "report.json").read_text())
    found = content["allocation"]["per_image"]
    names = [each["name"] for each in content["result"]["combinations"][-2:]]
    assert names == [found["alike"]["name"], found["combination"]["name"]]
    assert 0 < found["combination"]["bits_per_pixel"] <= 1000
    assert found["combination"]["accuracy"]["drop_interval"] is not None
    images: Counter[int] = Counter()
    for each in found["taken"]:
        images[each["level"]] += each["num_images"]
    assert images == dict.fromkeys(range(5), 3)
    ways = read_candidates(reported.folder / "candidates.yaml")
    assert ways.distortion == found["distortion"] == "mAP"
    assert {way.level for way in ways.each} == set(range(5))


def str_keys(choice: dict[int, str]) -> dict[str, str]:
    return {str(level): part for level, part in choice.items()}


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


def test_dry_run_leaves_out_what_is_kept(
    study: TinyStudy, checkpoints: Path, reported: Reported, tmp_path: Path
) -> None:
    wanted = Wanted(target=Target(kind="mse", value=1.0))
    forecast = foretell(request_of(study, checkpoints), wanted, tmp_path, Kept(reported.kept))
    assert [(each.name, each.times) for each in forecast.stages] == [
        ("checking the cache", 1),
        ("later combinations, at most", 1),
    ]


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
