"""The whole job on real photographs with a trained detector, when they lie beside the project."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from analyze.cli import analyze_levels
from analyze.detection.heads_on_levels import detect_from_levels
from configs.config_files import load_config
from data.images.image_sets import first_images, load_images, read_image
from data.images.records import ImageSet
from data.reading.level_reader import LevelReader
from extract.accuracy.average_precision import evaluate_detector, mean_average_precision
from extract.cli import extract_features
from extract.detector.class_labels import head_of, match_labels
from extract.detector.loading import LoadedDetector, load_detector
from train.cli import train_level

SHARED = Path(__file__).parents[3] / "shared"
PENNFUDAN = SHARED / "datasets" / "pennfudan"
CHECKPOINT = SHARED / "detectors" / "pedestrian.pth"

pytestmark = pytest.mark.skipif(
    not (PENNFUDAN.is_dir() and CHECKPOINT.is_file()), reason="pennfudan is not on this machine"
)

CONFIG = f"""\
data:
  name: pennfudan
  format: coco
  splits:
    train: {{images: {PENNFUDAN}/images, annotations: {PENNFUDAN}/annotations/train.json}}
    val: {{images: {PENNFUDAN}/images, annotations: {PENNFUDAN}/annotations/val.json}}
detector:
  builder: fasterrcnn_mobilenet_v2_fpn
  checkpoint: {CHECKPOINT}
  min_size: 320
  max_size: 533
model: {{n_hidden: 32, n_channels: 48}}
training: {{learning_rate: 1e-3, lambda: 0.03, crop: 32, batch_size: 4, epochs: 1}}
"""
# The first of 119 and of 51: enough for every claim below.
NUM_IMAGES = {"train": 4, "val": 5}


def run(command: Any, *arguments: object) -> str:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


Detections = dict[int, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration and the float16 caches of train and val."""
    folder = tmp_path_factory.mktemp("pennfudan")
    (folder / "config.yaml").write_text(CONFIG)
    for split, num_images in NUM_IMAGES.items():
        run(
            extract_features, "--config", folder / "config.yaml",
            "--features", folder / "features", "--split", split, "--limit", num_images,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def images(study: Path) -> ImageSet:
    """The images of val that the caches hold."""
    val = load_images(load_config(str(study / "config.yaml")).data, "val")
    return first_images(val, NUM_IMAGES["val"])


@pytest.fixture(scope="module")
def detector(study: Path) -> LoadedDetector:
    return load_detector(load_config(str(study / "config.yaml")).detector)


def cached_detections(cache: Path, model: Any) -> Detections:
    readers = [LevelReader(cache, level) for level in range(5)]
    found = {}
    for index, sample in enumerate(readers[0].manifest.samples):
        maps = {
            reader.info.key: torch.from_numpy(np.array(reader.sample(index))).permute(2, 0, 1)[None]
            for reader in readers
        }
        found[sample.image_id] = detect_from_levels(model, maps, (sample.height, sample.width))
    return found


@pytest.fixture(scope="module")
def float32_cache(study: Path) -> Path:
    run(
        extract_features, "--config", study / "config.yaml", "--features", study / "float32",
        "--split", "val", "--dtype", "float32", "--limit", NUM_IMAGES["val"],
    )  # fmt: skip
    return study / "float32" / "val"


@pytest.fixture(scope="module")
def float32_detections(float32_cache: Path, detector: LoadedDetector) -> Detections:
    return cached_detections(float32_cache, detector.model)


@pytest.fixture(scope="module")
def labels(detector: LoadedDetector, images: ImageSet) -> dict[int, int]:
    return match_labels(detector.classes, head_of(detector.model), images.categories).category_of


@pytest.fixture(scope="module")
def own_accuracy(detector: LoadedDetector, images: ImageSet) -> dict[str, float]:
    return evaluate_detector(detector.model, detector.classes, images)


def test_ap_from_the_float32_cache_is_the_detectors_own(
    float32_cache: Path,
    float32_detections: Detections,
    labels: dict[int, int],
    own_accuracy: dict[str, float],
) -> None:
    cached = mean_average_precision(float32_detections, float32_cache / "annotations.json", labels)
    assert cached["map"] == pytest.approx(own_accuracy["map"], abs=0.0005)
    assert own_accuracy["map"] > 0.4


def test_ap_from_the_float16_cache_is_within_0_002_of_the_detectors_own(
    study: Path,
    detector: LoadedDetector,
    labels: dict[int, int],
    own_accuracy: dict[str, float],
) -> None:
    cache = study / "features" / "val"
    found = cached_detections(cache, detector.model)
    cached = mean_average_precision(found, cache / "annotations.json", labels)
    assert cached["map"] == pytest.approx(own_accuracy["map"], abs=0.002)


def test_confident_boxes_from_the_float32_cache_are_the_detectors_own_to_0_01_px(
    float32_cache: Path, float32_detections: Detections, detector: LoadedDetector
) -> None:
    samples = LevelReader(float32_cache, 4).manifest.samples
    compared = 0
    for sample in samples:
        image = torch.from_numpy(read_image(sample.file)).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            own = detector.model([image])[0]
        confident = own["scores"] > 0.5
        cached = float32_detections[sample.image_id]
        assert torch.equal(own["labels"][confident], cached["labels"][cached["scores"] > 0.5])
        torch.testing.assert_close(
            cached["boxes"][cached["scores"] > 0.5], own["boxes"][confident], atol=0.01, rtol=0
        )
        compared += int(confident.sum())
    assert compared >= 12


def test_five_levels_are_trained_and_reported_with_real_rates_near_the_estimated(
    study: Path, undrawn: None
) -> None:
    common = ("--config", study / "config.yaml", "--features", study / "features")
    out = study / "checkpoints"
    run(train_level, *common, "--level", "all", "--out", out)
    printed = run(
        analyze_levels, *common, "--checkpoints", out, "--report", study / "report",
        "--anchors", "none", "--limit", 2,
    )  # fmt: skip
    assert "tables, curves and pictures:" in printed
    with (study / "report" / "levels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["level"]) for row in rows] == [0, 1, 2, 3, 4]
    finest = rows[0]
    # Real bytes less the header, against -log2 of the likelihoods, over two maps of val.
    assert float(finest["payload_bpp"]) == pytest.approx(float(finest["estimated_bpp"]), rel=0.03)
    for row in rows:
        assert float(row["real_bpp"]) > float(row["payload_bpp"]) > 0
        assert 0 <= float(row["map"]) <= 1
    assert (study / "report" / "index.html").stat().st_size > 10_000
