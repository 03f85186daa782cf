"""A tiny COCO data set with its detector, configuration and caches, and the commands that read it.

Import the fixture `photos` by name; it is made once per test file that imports it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from analyze.cli import analyze_levels
from extract.cli import extract_features
from tests.support.datasets import save_image
from tests.support.tiny_study import save_detector
from train.cli import train_level

YAML = """
data:
  name: photos
  format: coco
  splits:
    train: {images: DATA/images, annotations: DATA/train.json}
    val: {images: DATA/images, annotations: DATA/val.json}
detector: {builder: fasterrcnn_mobilenet_v2_fpn, checkpoint: DETECTOR, min_size: 64, max_size: 96}
cache: {shard_megabytes: 0.4}
model: {n_hidden: 8, n_channels: 12}
"""
COMMANDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "extraction": (extract_features, ("--split", "train", "--split", "val")),
    "training": (train_level, ("--level", "4", "--epochs", "1")),
    "analysis": (analyze_levels, ("--report", "report", "--anchors", "none")),
}
READERS = ("training", "analysis")


def coco_of(numbers: list[int]) -> dict[str, Any]:
    sides = {"width": 96, "height": 64}
    return {
        "images": [{"id": n, "file_name": f"{n}.png", **sides} for n in numbers],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 20, 30]} for n in numbers
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Photos:
    """A COCO data set, a detector, the configuration of both, and their caches."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "photos.yaml"

    @property
    def features(self) -> Path:
        return self.root / "features"

    @property
    def detector(self) -> Path:
        return self.root / "detector.pth"

    def run(
        self, name: str, *options: str, config: Path | None = None, features: Path | None = None
    ) -> Result:
        command, usual = COMMANDS[name]
        return CliRunner().invoke(command, [
            *usual, "--config", str(config or self.config), "--device", "cpu",
            "--features", str(features or self.features), *options,
        ])  # fmt: skip

    def must_extract(self, features: Path, *options: str, config: Path | None = None) -> Path:
        result = self.run("extraction", *options, config=config, features=features)
        assert result.exit_code == 0, result.output
        return features

    def configure(self, path: Path, data: Path | None = None, detector: Path | None = None) -> Path:
        text = YAML.replace("DATA", str(data or self.root))
        path.write_text(text.replace("DETECTOR", str(detector or self.detector)))
        return path


def write_lists(folder: Path, train: list[int], val: list[int]) -> Path:
    for name, numbers in (("train", train), ("val", val)):
        (folder / f"{name}.json").write_text(json.dumps(coco_of(numbers)))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    made = Photos(root=tmp_path_factory.mktemp("photos"))
    for number in range(1, 7):
        save_image(made.root / "images" / f"{number}.png", 96, 64)
    write_lists(made.root, [3, 1, 2], [4, 5])
    save_detector(made.detector)
    save_detector(made.root / "other.pth", seed=1)
    made.configure(made.config)
    made.must_extract(made.features)
    return made
