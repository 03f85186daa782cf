"""Heads fed from given levels detect what the whole detector detects."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import get_model_builder

from analyze.detection.heads_on_levels import backbone_keys, cached_backbone, detect_from_levels
from analyze.detection.split_evaluator import _copies
from extract.accuracy.average_precision import mean_average_precision

BUILDERS = {
    "fasterrcnn_mobilenet_v3_large_fpn": ("0", "1", "pool"),
    "maskrcnn_resnet50_fpn": ("0", "1", "2", "3", "pool"),
    "retinanet_resnet50_fpn": ("0", "1", "2", "p6", "p7"),
    "fcos_resnet50_fpn": ("0", "1", "2", "p6", "p7"),
}


def small_detector(builder: str) -> Any:
    """A detector with seeded random weights that keeps low scores, so that boxes come out."""
    torch.manual_seed(0)
    model = get_model_builder(builder)(
        weights=None, weights_backbone=None, num_classes=4, min_size=96, max_size=160
    ).eval()
    if hasattr(model, "roi_heads"):
        model.roi_heads.score_thresh = 0.0
    else:
        model.score_thresh = 0.0
    return model


@pytest.fixture(scope="module", params=list(BUILDERS))
def detector(request: pytest.FixtureRequest) -> Any:
    model = small_detector(request.param)
    model.builder = request.param
    return model


@torch.no_grad()
def own_levels(model: Any, image: Tensor) -> OrderedDict[str, Tensor]:
    batch, _ = model.transform([image])
    levels: OrderedDict[str, Tensor] = model.backbone(batch.tensors)
    return levels


def test_heads_on_the_backbones_own_levels_detect_what_the_detector_does(detector: Any) -> None:
    image = torch.rand(3, 75, 110, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = detector([image])[0]
    result = detect_from_levels(detector, own_levels(detector, image), (75, 110))
    assert len(expected["boxes"]) > 0
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(result[name], expected[name])


def test_detector_has_its_backbone_and_masks_back_after_an_error(detector: Any) -> None:
    backbone = detector.backbone
    pool = getattr(getattr(detector, "roi_heads", None), "mask_roi_pool", None)
    with pytest.raises(RuntimeError, match="inside"), cached_backbone(detector, {}):
        raise RuntimeError("inside")
    assert detector.backbone is backbone
    assert getattr(getattr(detector, "roi_heads", None), "mask_roi_pool", None) is pool


def test_backbone_keys_are_the_levels_finest_first(detector: Any) -> None:
    assert backbone_keys(detector) == BUILDERS[detector.builder]


@pytest.fixture
def two_images(tmp_path: Path) -> Path:
    """Two images, each with one box of category 7 (large) on the left."""
    path = tmp_path / "annotations.json"
    box = {"bbox": [10, 10, 100, 120], "area": 12000, "iscrowd": 0, "category_id": 7}
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 200, "width": 300} for n in (1, 2)],
        "annotations": [{"id": n, "image_id": n, **box} for n in (1, 2)],
        "categories": [{"id": 7, "name": "disc"}],
    }
    path.write_text(json.dumps(content))
    return path


def one_box() -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor([[10.0, 10.0, 110.0, 130.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.9]),
    }


def no_box() -> dict[str, Tensor]:
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
    }


def test_perfect_boxes_have_map_one_and_nothing_is_printed(
    two_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = mean_average_precision({1: one_box(), 2: one_box()}, two_images, {1: 7})
    assert figures == {"map": 1.0, "map_50": 1.0, "small": -1.0, "medium": -1.0, "large": 1.0}
    assert capsys.readouterr().out == ""


def test_only_images_with_a_result_are_evaluated(two_images: Path) -> None:
    alone = mean_average_precision({1: one_box()}, two_images, {1: 7})
    assert alone["map"] == pytest.approx(1.0)
    halved = mean_average_precision({1: one_box(), 2: no_box()}, two_images, {1: 7})
    assert halved["map"] == pytest.approx(51 / 101)


def test_no_detection_at_all_has_map_zero(two_images: Path) -> None:
    assert mean_average_precision({1: no_box(), 2: no_box()}, two_images, {1: 7})["map"] == 0.0


def test_label_without_category_counts_as_no_detection(two_images: Path) -> None:
    assert mean_average_precision({1: one_box()}, two_images, {2: 7})["map"] == 0.0


def test_several_threads_share_weights_and_what_cannot_be_copied_runs_in_one() -> None:
    detector = small_detector("fasterrcnn_mobilenet_v3_large_fpn")
    first, second = _copies(detector, 2)
    assert second is detector
    assert first is not detector
    pairs = zip(first.parameters(), detector.parameters(), strict=True)
    assert all(one is other for one, other in pairs)
    detector.lock = threading.Lock()
    assert _copies(detector, 2) == [detector]
