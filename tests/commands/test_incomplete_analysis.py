"""analyze-levels where pieces are missing, damaged or not meant for each other."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from analyze.cli import analyze_levels
from data.cache.annotations import read_annotations, write_annotations
from data.cache.manifest import Manifest
from data.images.records import ImageSet
from extract.cli import extract_features
from tests.support.analysis import analyse, rows_of
from tests.support.extraction import error_of
from tests.support.tiny_study import TinyStudy, extract_tiny, save_detector, with_detector
from train.cli import train_level


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


def test_named_run_that_a_newer_one_replaces_is_told(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, undrawn: None
) -> None:
    (run,) = checkpoints.glob("*_level_3/run_*")
    older = tmp_path / "runs" / run.parent.name / f"run_20000101_000000{run.name[19:]}"
    shutil.copytree(run, older)
    result = analyse(study, checkpoints, tmp_path / "report", str(run), str(older))
    assert result.exit_code == 0, result.output
    assert f"missing: {older} is left out: {run} is of the same level" in result.output


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
