"""A dry run foretells each stage of an analysis, and writes nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from analyze.allocation.search import Target
from analyze.facts.kept_results import Kept
from analyze.foretell import foretell
from analyze.request import Wanted
from data.cache.manifest import Manifest
from tests.support.analysis import analyse, request_of
from tests.support.tiny_study import TinyStudy


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
        ("later combinations, at most", 8),
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


def test_dry_run_is_an_option_and_makes_no_report_folder(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = SimpleNamespace(table=lambda: "about an hour")
    monkeypatch.setattr("analyze.foretell.foretell", lambda *_: short)
    result = analyse(study, checkpoints, tmp_path / "report", "--dry-run")
    assert (result.exit_code, result.output) == (0, "about an hour\n")
    assert not list(tmp_path.iterdir())


def test_dry_run_codes_each_run_on_the_split_that_chooses_too(
    study: TinyStudy, checkpoints: Path, tmp_path: Path
) -> None:
    wanted = Wanted(target=Target(kind="mse", value=1.0), choose_on="train")
    forecast = foretell(request_of(study, checkpoints, limit=1), wanted, tmp_path, Kept(None))
    coded = [each.name for each in forecast.stages if each.name.startswith("coding")]
    assert [name.endswith(", train") for name in coded] == [False] * 5 + [True] * 5
