"""What ships is trained, small enough and described truthfully: a detector, a codec a level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import extract
import train
from configs.config_files import load_config
from data.images.image_sets import load_images
from data.images.records import ImageSet
from extract.accuracy.average_precision import evaluate_detector
from extract.detector.loading import LoadedDetector, load_detector
from extract.detector.weights import read_checkpoint
from train.loop.beginning import best_model_of
from train.runs.checkpoint import load_codec

SHIPPED = [Path(house.__path__[0]) / "builtin" for house in (extract, train)]


class CodedBackbone(nn.Module):
    """A backbone whose maps went through the codecs that ship; counts their estimated bits."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.codecs = [load_codec(best_model_of("builtin:scenes", n))[0] for n in range(5)]
        self.bits = 0.0

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.backbone(images)
        decoded = {}
        for (key, values), codec in zip(maps.items(), self.codecs, strict=True):
            coded = codec(values)
            decoded[key] = coded["x_hat"]
            self.bits -= sum(float(each.log2().sum()) for each in coded["likelihoods"].values())
        return decoded


@pytest.fixture(scope="module")
def images() -> ImageSet:
    every = load_images(load_config().data, "val")
    assert len(every.records) == 64
    return replace(every, records=every.records[:8])


@pytest.fixture(scope="module")
def detector() -> LoadedDetector:
    return load_detector(load_config().detector)


@pytest.fixture(scope="module")
def map_before(images: ImageSet, detector: LoadedDetector) -> float:
    return evaluate_detector(detector.model, detector.classes, images)["map"]


def test_shipped_weights_reach_map_0_5_on_scenes_of_the_val_split(map_before: float) -> None:
    # Neither trivial nor hopeless: there is something left to lose and something to gain.
    assert 0.5 <= map_before <= 0.9


@torch.no_grad()
def test_shipped_codecs_keep_nine_tenths_of_map_at_half_a_bit_per_pixel(
    images: ImageSet, detector: LoadedDetector, map_before: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = CodedBackbone(detector.model.backbone)
    monkeypatch.setattr(detector.model, "backbone", coded)
    after = evaluate_detector(detector.model, detector.classes, images)["map"]
    assert after >= 0.9 * map_before
    num_pixels = sum(record.height * record.width for record in images.records)
    assert coded.bits <= 0.5 * num_pixels


def test_all_that_ships_has_at_most_40_mb() -> None:
    files = [file for folder in SHIPPED for file in folder.glob("*.pth")]
    assert len(files) == 6
    assert sum(file.stat().st_size for file in files) <= 40e6


def test_shipped_weights_name_the_scenes_classes() -> None:
    assert read_checkpoint("builtin:scenes").classes == (
        "disc", "box", "triangle", "ring", "cross",
    )  # fmt: skip
