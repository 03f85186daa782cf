"""analyze-levels on real caches and real runs, whole and with pieces missing."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from analyze.cli import analyze_levels
from data.manifest import Manifest
from tests.tiny_study import TinyStudy, extract_tiny, save_detector, study, with_detector
from train.cli import train_level

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
        "--kept", str(report / "kept"), *more,
    )  # fmt: skip
    return CliRunner().invoke(analyze_levels, list(arguments))


def rows_of(report: Path) -> list[dict[str, str]]:
    with (report / "levels.csv").open() as file:
        return list(csv.DictReader(file))


def test_report_has_every_level_and_lambda_with_real_rates_and_map(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    result = analyse(study, checkpoints, tmp_path)
    assert result.exit_code == 0, result.output
    rows = rows_of(tmp_path)
    assert [(int(row["level"]), float(row["lambda"])) for row in rows] == [
        (0, 0.001), (1, 0.001), (2, 0.001), (3, 0.001), (4, 0.001), (4, 0.01),
    ]  # fmt: skip
    for row in rows:
        assert float(row["real_bpp"]) > float(row["estimated_bpp"]) > 0
        assert float(row["encode_ms"]) > 0
        assert row["map"] != ""
    assert sum(float(row["share"]) for row in rows[:5]) == pytest.approx(1)
    assert {"index.html", "report.md", "levels.csv", "plots"} <= {
        path.name for path in tmp_path.iterdir()
    }
    for row in rows[:5]:
        assert row["resolution"] in result.output
    assert "original features" in result.output
    assert "all levels, lambda 0.001" in result.output


def test_decoded_maps_do_not_stay_on_disk(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    assert analyse(study, checkpoints, tmp_path).exit_code == 0
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".decoded")]


def test_missing_val_cache_is_one_line_with_the_command_to_run(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    result = analyse(study, checkpoints, tmp_path, "--split", "test")
    assert result.exit_code == 1
    assert "run extract-features --split test" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_level_without_a_run_is_named_and_the_others_are_reported(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
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


def test_split_without_boxes_gives_rates_and_says_why_there_is_no_map(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    features = tmp_path / "features"
    shutil.copytree(study.root, features)
    path = features / "val" / "annotations.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": [], "categories": []}))
    result = analyse(study, checkpoints, tmp_path / "report", features=features)
    assert result.exit_code == 0, result.output
    assert "missing: no mAP" in result.output
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
    assert result.exit_code == 1
    assert "trained" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_folder_that_is_no_run_is_refused_by_name(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    result = analyse(study, checkpoints, tmp_path / "report", str(tmp_path))
    assert result.exit_code == 1
    assert str(tmp_path) in result.output


def test_refused_analysis_leaves_no_report_folder_behind(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    analyse(study, checkpoints, tmp_path / "report", "--split", "test")
    assert not (tmp_path / "report").exists()


def test_report_folder_that_cannot_be_made_is_one_line(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = analyse(study, checkpoints, tmp_path / "file" / "report")
    assert result.exit_code == 1
    assert "choose another --report" in result.output
    assert len(result.output.strip().splitlines()) == 1
