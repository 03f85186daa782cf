"""A split under analysis says which classes count as nothing, and who has judged it."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from analyze.facts.kept_results import Kept
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.split import Split, cache_beside, open_split
from configs.config_files import check_config
from configs.errors import CacheError, ConfigError
from configs.schema.config import Config
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations, write_annotations
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import FILE_NAME
from extract.accuracy.average_precision import evaluate_detections
from extract.accuracy.matches import Detections
from tests.support.tiny_study import (
    TinyStudy,
    extract_tiny,
    save_detector,
    with_detector,
)
from train.runs.loaded_models import LoadedModels

KNOWN = ("disc", "box", "triangle", "ring")  # of the five classes of the scenes


def named(study: TinyStudy, folder: Path, *classes: str) -> Config:
    """The study's detector, in a checkpoint that names its classes."""
    state = torch.load(str(study.config.detector.checkpoint), weights_only=True)
    torch.save({"model": state, "classes": list(classes)}, folder / "named.pth")
    return with_detector(study.config, folder / "named.pth")


@contextmanager
def opened(study: TinyStudy, config: Config, *classes: str) -> Iterator[Split]:
    with open_split(
        CacheFolder(study.val_cache), "val", config,
        device="cpu", limit=None, classes=classes, options="",
    ) as split:  # fmt: skip
        yield split


def test_class_that_the_detector_does_not_know_is_named_in_report_and_log(
    study: TinyStudy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = named(study, tmp_path, *KNOWN, "star")
    with caplog.at_level(logging.INFO), opened(study, config) as split:
        assert split.annotations is not None
        counts = dict.fromkeys(split.annotations.categories.values(), 0)
        for record in split.annotations.records:
            for category in record.category_ids.tolist():
                counts[split.annotations.categories[category]] += 1
        known = ",".join(name for name in KNOWN if counts[name])
        assert counts["cross"] > 0
        (line,) = split.missing
    assert line == (
        "mAP counts AP 0 for the classes that the detector does not know: cross "
        f"({counts['cross']} boxes): leave them out with --classes {known}, or use a detector "
        "trained on them"
    )
    assert line in caplog.text
    assert "labels were matched to categories by name: 1 disc is disc (1), 2 box is" in caplog.text


def test_classes_that_are_named_are_the_only_ones_that_are_evaluated(
    study: TinyStudy, tmp_path: Path
) -> None:
    config = named(study, tmp_path, *KNOWN, "star")
    with opened(study, config, "ring", "disc") as split:
        assert split.missing == ()
        assert split.only_classes == ("disc", "ring")
        assert split.evaluator is not None
        assert split.evaluator.category_ids == (1, 4)
        truth = split.evaluator.truth
        assert replace(split.evaluator, category_ids=None).truth != truth
    with (
        pytest.raises(ConfigError, match="no class 'rings': did you mean 'ring'"),
        opened(study, config, "rings"),
    ):
        pass
    with opened(study, config, "cross") as split:
        assert split.evaluator is None
        assert "of a class that the detector knows" in split.missing[0]


def test_checkpoint_that_names_its_background_too_shifts_no_label(
    study: TinyStudy, tmp_path: Path
) -> None:
    classes = (*KNOWN, "cross")
    with opened(study, named(study, tmp_path, "__background__", *classes)) as split:
        assert split.missing == ()
        assert split.evaluator is not None
        assert split.evaluator.label_to_category == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}
    with opened(study, named(study, tmp_path, "x", *classes)) as split:
        assert split.evaluator is None
        assert split.missing[0].startswith("no mAP: `classes` names 6 (x, disc, box, triangle, ")


def test_labels_that_are_guessed_to_be_ids_are_a_line_of_the_report(
    study: TinyStudy, tmp_path: Path
) -> None:
    shutil.copytree(study.val_cache, tmp_path / "val")
    path = tmp_path / "val" / ANNOTATIONS_NAME
    boxes = read_annotations(path, "val")
    more = {category: name for category, name in boxes.categories.items() if category != 2}
    kept = tuple(
        replace(
            record, boxes_xyxy=record.boxes_xyxy[record.category_ids != 2], areas_px=None,
            category_ids=record.category_ids[record.category_ids != 2],
            ignored=record.ignored[record.category_ids != 2],
        )
        for record in boxes.records
    )  # fmt: skip
    write_annotations(path, replace(boxes, categories=more, records=kept))
    with opened(replace(study, root=tmp_path), study.config) as split:
        assert split.missing == (
            "labels were matched to categories as the same numbers, a guess: 1 is disc (1), "
            "3 is triangle (3), 4 is ring (4), 5 is cross (5)",
        )


def found_in(boxes: Any) -> Detections:
    """The truths themselves, found with falling scores; of category 2 only half of each box."""
    results = {}
    for record in boxes.records:
        xyxy = torch.from_numpy(record.boxes_xyxy.copy())
        xyxy[record.category_ids == 2, 2] -= 20
        scores = torch.linspace(0.9, 0.5, len(xyxy))
        labels = torch.from_numpy(record.category_ids.copy())
        results[record.image_id] = {"boxes": xyxy, "labels": labels, "scores": scores}
    return Detections.of(results)


def test_map_is_the_mean_of_the_classes_ap_and_that_of_some_of_some(study: TinyStudy) -> None:
    path = study.val_cache / ANNOTATIONS_NAME
    boxes = read_annotations(path, "val")
    labels = {label: label for label in boxes.categories}
    held = {int(each) for record in boxes.records for each in record.category_ids}
    with opened(study, study.config) as split:
        assert split.evaluator is not None
        for only in (None, (1, 2), (2,)):
            evaluator = replace(split.evaluator, label_to_category=labels, category_ids=only)
            detection = DetectionStudy(split, evaluator, cast(DecodedLevels, None), Kept(None), "")
            detection._detections[()] = found_in(boxes)
            aps = {
                each.name: ap
                for each, ap in zip(detection.classes(), detection.class_ap({}), strict=True)
            }
            assert list(aps) == [
                boxes.categories[each] for each in sorted(held & set(only or held))
            ]
            assert aps.pop("box") < 0.9
            assert list(aps.values()) == pytest.approx([1.0] * len(aps))
            overall = evaluate_detections(found_in(boxes), path, labels, only).accuracy.map
            assert overall == pytest.approx(np.mean(detection.class_ap({})), abs=1e-9)


FACTORY = """
from pathlib import Path

import torch

from extract.detector.builders import fasterrcnn_mobilenet_v2_fpn


def build():
    model = fasterrcnn_mobilenet_v2_fpn(
        num_classes=6, min_size=64, max_size=96,
        box_score_thresh=float(Path("threshold.txt").read_text()), box_detections_per_img=500,
    )
    model.load_state_dict(torch.load("detector.pth", weights_only=True))
    return model
"""


def test_detections_that_are_kept_are_of_the_thresholds_of_ones_own_factory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "factory_with_a_threshold", raising=False)
    Path("factory_with_a_threshold.py").write_text(FACTORY)
    save_detector(tmp_path / "detector.pth")
    data = {"name": "tiny", "splits": {"val": {"num_scenes": 1, "scene_seed": 12}}}
    builder = {"builder": "factory_with_a_threshold:build"}
    config = check_config({"data": data, "detector": builder}, "own")
    Path("threshold.txt").write_text("0.0")
    extract_tiny(tmp_path, config, ["val"])
    there = TinyStudy(root=tmp_path, config=config, config_file=tmp_path / "none.yaml")
    found: dict[str, int] = {}
    measured: dict[str, str] = {}
    for threshold in ("0.0", "0.9", "0.0"):
        Path("threshold.txt").write_text(threshold)
        with opened(there, config) as split:
            assert split.evaluator is not None
            decoded = DecodedLevels(tmp_path, split.readers, 1, LoadedModels())
            kept = Kept(tmp_path / "kept")
            study = DetectionStudy(split, split.evaluator, decoded, kept, "cpu")
            number = len(study.detections({}).labels)
            assert found.setdefault(threshold, number) == number
            assert measured.setdefault(threshold, split.evaluator.truth) == split.evaluator.truth
    assert found["0.0"] > found["0.9"] == 0
    assert measured["0.0"] != measured["0.9"]  # under which anchors and sensitivity are kept
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("weights_sha256", "f" * 64), "its detector weights are ffffffffffff, those of"),
        (("stride_px", 999), r"its levels are 0 \(0, 256 channels, stride 999\).*, those of"),
    ],
)
def test_split_of_other_features_does_not_choose(
    study: TinyStudy, tmp_path: Path, change: tuple[str, Any], line: str
) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        content = json.loads((study.root / split / FILE_NAME).read_text())
        if split == "train":
            there = (
                content["detector"] if change[0] in content["detector"] else content["levels"][0]
            )
            there[change[0]] = change[1]
        (tmp_path / split / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(CacheError, match=line) as caught:
        cache_beside(CacheFolder(tmp_path / "val"), "train", " --config x")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("run extract-features --split train --config x")
    assert cache_beside(CacheFolder(study.val_cache), "train", "").path == study.train_cache


def test_named_builders_results_are_kept_as_before(study: TinyStudy) -> None:
    with opened(study, study.config) as split:
        assert split.evaluator is not None
        assert split.evaluator.own_detector == ""
