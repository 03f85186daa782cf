"""An anchor of one's own by `package.module:name`: measured as ours are, and kept for its code."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyze.anchors.anchor_study import AnchorSplit, study_anchors
from analyze.anchors.catalogue import ANCHORS, find_anchor
from analyze.facts.kept_results import Kept
from configs.errors import ConfigError
from data.reading.level_reader import LevelReader
from tests.support.own_anchor import write_anchor
from tests.support.tiny_study import TinyStudy


def test_anchor_of_ones_own_is_measured_and_kept_until_its_file_changes(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = write_anchor(tmp_path / "own_kept.py")
    kept = Kept(tmp_path / "kept")
    with LevelReader(study.val_cache, 3) as reader:
        split = AnchorSplit(
            train_cache=study.train_cache, readers={3: reader}, num_images=2, evaluator=None,
            derivations={},
        )  # fmt: skip
        found = study_anchors({name: find_anchor(name)}, split, kept, tmp_path)
        assert [(each.anchor, each.title) for each in found.points] == [(name, "whole numbers")]
        assert 0 < found.points[0].levels[3].mse < 1 / 4
        assert study_anchors({name: find_anchor(name)}, split, kept, tmp_path) == found
        assert len(list((tmp_path / "kept").iterdir())) == 1
        with (tmp_path / "own_kept.py").open("a") as file:
            file.write("# another method\n")
        study_anchors({name: find_anchor(name)}, split, kept, tmp_path)
        assert len(list((tmp_path / "kept").iterdir())) == 2


def test_two_anchors_of_one_file_and_one_name_are_kept_apart(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = write_anchor(tmp_path / "own_twins.py")
    with (tmp_path / "own_twins.py").open("a") as file:
        file.write("\n\nclass Twin(WholeNumbers):\n    pass\n")
    kept = Kept(tmp_path / "kept")
    with LevelReader(study.val_cache, 3) as reader:
        split = AnchorSplit(
            train_cache=study.train_cache, readers={3: reader}, num_images=1, evaluator=None,
            derivations={},
        )  # fmt: skip
        for name in (first, "own_twins:Twin"):
            study_anchors({name: find_anchor(name)}, split, kept, tmp_path)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_name_of_ours_is_ours() -> None:
    assert [find_anchor(name) for name in ANCHORS] == list(ANCHORS.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unifor", "--anchors unifor: there is none of this name: did you mean 'uniform'.: use "),
        ("absent_anchor:Own", "--anchors: 'absent_anchor:Own' cannot be imported"),
        ("json:loads", r"'json:loads' cannot be made: TypeError: loads\(\) missing 1 required"),
        ("fractions:Fraction", "gives a Fraction without name, points, unavailable, fit: name a"),
    ],
)
def test_what_is_no_anchor_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_anchor(name)
