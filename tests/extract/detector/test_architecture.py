"""A state dict that fits no builder is told by what its weights show, and not by a guess."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.models import get_model_builder

from extract.detector.architecture import misfit
from extract.detector.builders import fasterrcnn_mobilenet_v2_fpn

State = dict[str, Tensor]
BY_A_FACTORY = "build it by a factory of your own, detector.builder package.module:factory"


@pytest.fixture(scope="module")
def expected() -> State:
    with torch.device("meta"):
        return fasterrcnn_mobilenet_v2_fpn(num_classes=4).state_dict()


def with_anchors(state: State) -> State:
    return state | {"rpn.head.cls_logits.weight": torch.zeros(5, 256, 1, 1)}


def narrow(state: State) -> State:
    return {key: tensor[:128] if "layer_blocks" in key else tensor for key, tensor in state.items()}


def without_a_level(state: State) -> State:
    return {key: state[key] for key in state if "blocks.3" not in key}


def of_detectron2(state: State) -> State:
    return {key.replace("backbone.body", "backbone.bottom_up"): state[key] for key in state}


def of_mmdetection(state: State) -> State:
    return {key.replace("backbone.fpn", "neck"): state[key] for key in state}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (with_anchors, f"it has 5 anchors at each position, and not 3: {BY_A_FACTORY}"),
        (narrow, f"it has 128 channels in its FPN, and not 256: {BY_A_FACTORY}"),
        (without_a_level, f"it has 3 levels below its FPN, and not 4: {BY_A_FACTORY}"),
        (of_detectron2, f"it has the layers of detectron2, not of torchvision: {BY_A_FACTORY}"),
        (of_mmdetection, f"it has the layers of MMDetection, not of torchvision: {BY_A_FACTORY}"),
    ],
)
def test_misfit_is_told_by_what_the_weights_show(
    expected: State, change: Callable[[State], State], told: str
) -> None:
    assert misfit(change(expected), expected) == told


@pytest.mark.parametrize("builder", ["retinanet_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_another_body_or_another_head_is_another_builder(expected: State, builder: str) -> None:
    with torch.device("meta"):
        other = get_model_builder(builder)(weights=None, weights_backbone=None).state_dict()
    assert misfit(other, expected) == "name the builder that the checkpoint was trained with"
