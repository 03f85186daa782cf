"""Pieces of an analysis that are measured apart are not measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analyze.allocation.search import Target
from analyze.analysis import analyze
from analyze.anchors.catalogue import ANCHORS
from analyze.anchors.klt import KltAnchor
from analyze.facts.kept_results import Kept
from analyze.image_coding.image_anchors import image_jpeg
from analyze.pieces import CachedPiece, FusedPiece, measure_piece, pieces_left
from analyze.request import AnalysisRequest, Wanted
from tests.support.analysis import request_of
from tests.support.fused_runs import fused_job
from tests.support.tiny_study import TinyStudy
from train.loop.run import train_level

ANY_ERROR = Target(kind="mse", value=1e9)


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANCHORS, "klt", KltAnchor(relative_steps=(2.0, 0.5)))
    monkeypatch.setitem(ANCHORS, "image-jpeg", image_jpeg(qualities=(20,)))


def measured_again(*_: Any, **__: Any) -> None:
    raise AssertionError("measured again")


@pytest.mark.usefixtures("few_points", "undrawn")
def test_analysis_measures_no_run_and_no_anchor_that_was_measured_apart(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Wanted(target=ANY_ERROR, anchors=("klt", "float16", "image-jpeg"))
    request, kept = request_of(study, checkpoints, limit=1), Kept(tmp_path / "kept")
    left = pieces_left(request, wanted, tmp_path, kept)
    names = [piece.name for _, piece in left]
    assert names[0] == "detection on the features as cached"
    assert all(Path(name).is_relative_to(checkpoints) for name in names[1:7])
    assert names[7:] == [
        "anchor klt, point 1", "anchor klt, point 2", "anchor float16, point 1",
        "anchor image-jpeg, point 1", "anchor image-jpeg, point 2",
    ]  # fmt: skip
    for of, piece in left:
        assert list(measure_piece(of, piece, tmp_path / "kept", tmp_path)) == [None]
    assert pieces_left(request, wanted, tmp_path, kept) == []
    for what in (
        "analyze.measure.level_rate_distortion.measure_level",
        "analyze.anchors.anchor_study._measure_point",
        "analyze.image_coding.image_study._measure",
    ):
        monkeypatch.setattr(what, measured_again)
    findings = analyze(request, wanted, tmp_path, kept)
    assert len(findings.result.rows) == 6
    assert len(findings.anchors) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_split_that_chooses_is_measured_apart_too_and_what_is_kept_is_left_out(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    wanted = Wanted(target=ANY_ERROR, choose_on="train")
    request, kept = request_of(study, checkpoints, limit=1), Kept(tmp_path / "kept")
    left = pieces_left(request, wanted, tmp_path, kept)
    assert [of.split for of, _ in left] == ["val"] * 7 + ["train"] * 7
    assert Path(left[-1][0].cache) == study.train_cache
    of, piece = left[7]
    assert isinstance(piece, CachedPiece)
    list(measure_piece(of, piece, tmp_path / "kept", tmp_path))
    assert pieces_left(request, wanted, tmp_path, kept) == left[:7] + left[8:]


def test_without_a_cache_there_is_nothing_to_measure(study: TinyStudy, tmp_path: Path) -> None:
    request = AnalysisRequest(
        cache=tmp_path / "none", split="none", config=study.config, checkpoints=tmp_path
    )
    assert pieces_left(request, Wanted(target=ANY_ERROR), tmp_path, Kept(tmp_path)) == []


def test_fused_run_is_a_piece(study: TinyStudy, tmp_path: Path) -> None:
    run = train_level(fused_job(study.root, tmp_path / "runs", epochs=1))
    request = request_of(study, tmp_path / "runs", limit=1)
    wanted, kept = Wanted(target=ANY_ERROR), Kept(tmp_path / "kept")
    cached, piece = (each for _, each in pieces_left(request, wanted, tmp_path, kept))
    assert piece == FusedPiece(folder=run)
    list(measure_piece(request, piece, tmp_path / "kept", tmp_path))
    assert [each for _, each in pieces_left(request, wanted, tmp_path, kept)] in ([cached], [])
