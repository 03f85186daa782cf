"""The detector that ships is worth compressing: trained, small enough, described truthfully."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import extract
from configs.config_files import load_config
from data.images.image_sets import load_images
from extract.accuracy.average_precision import evaluate_detector
from extract.detector.loading import load_detector
from extract.detector.weights import read_checkpoint

WEIGHTS = Path(extract.__file__).parent / "builtin" / "scenes.pth"


def test_shipped_weights_reach_map_0_5_on_scenes_of_the_val_split() -> None:
    config = load_config()
    detector = load_detector(config.detector)
    every = load_images(config.data, "val")
    assert len(every.records) == 64
    images = replace(every, records=every.records[:24])
    accuracy = evaluate_detector(detector.model, detector.classes, images)
    assert accuracy["map"] >= 0.5
    # Neither trivial nor hopeless: there is something left to lose and something to gain.
    assert accuracy["map"] <= 0.9


def test_shipped_weights_are_at_most_20_mb() -> None:
    assert WEIGHTS.stat().st_size <= 20e6


def test_shipped_weights_name_the_scenes_classes() -> None:
    assert read_checkpoint("builtin:scenes").classes == (
        "disc", "box", "triangle", "ring", "cross",
    )  # fmt: skip
