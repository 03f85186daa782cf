"""Detectors without weights, by name: torchvision's FPN builders, ours for CPUs, or the user's."""

from __future__ import annotations

from typing import Any

import torchvision
from torchvision.models import detection, mobilenet_v2
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead

from configs.errors import ConfigError
from configs.own_code import is_own, load_own, own_code
from configs.schema.data import DEFAULT_BUILDER, SCENES_BUILDER, DetectorConfig

_OWN_BUILDER_DEFAULTS_PX = {"min_size": 320, "max_size": 533}


def fasterrcnn_mobilenet_v2_fpn(*, num_classes: int = 91, **sizes: Any) -> FasterRCNN:
    """Build the compact five-level detector: MobileNetV2 features 3, 6, 13, 18, a 256-wide FPN."""
    body = mobilenet_v2(weights=None).features
    backbone = BackboneWithFPN(
        body, {"3": "0", "6": "1", "13": "2", "18": "3"}, [24, 32, 96, 1280], 256
    )
    return FasterRCNN(
        backbone,
        box_head=TwoMLPHead(256 * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, num_classes),
        **(_OWN_BUILDER_DEFAULTS_PX | sizes),
    )


def build_detector(config: DetectorConfig, num_classes: int | None) -> Any:
    """Build the architecture alone, at the configured input size, without meaningful weights."""
    name = config.builder or DEFAULT_BUILDER
    check_builder(name, config.weights)
    sizes: dict[str, Any] = {}
    if config.min_size is not None:
        sizes["min_size"] = config.min_size
    if config.max_size is not None:
        sizes["max_size"] = config.max_size
    if is_own(name):
        model = _call_factory(name)
    elif name == SCENES_BUILDER:
        model = fasterrcnn_mobilenet_v2_fpn(num_classes=num_classes or 91, **sizes)
    else:
        model = torchvision.models.get_model_builder(name)(
            weights=None, weights_backbone=None, num_classes=num_classes or 91, **sizes
        )
    if is_own(name) and sizes:
        transform = model.transform
        transform.min_size = (sizes.get("min_size", transform.min_size[-1]),)
        transform.max_size = sizes.get("max_size", transform.max_size)
    if config.resize is not None:
        height, width = config.resize
        model.transform.fixed_size = (width, height)
    return model


def fpn_builders() -> list[str]:
    """Return the names of torchvision's detection builders that have a feature pyramid."""
    return [name for name in torchvision.models.list_models(module=detection) if "fpn" in name]


def check_builder(name: str, weights: str | None) -> None:
    """Raise ConfigError if there is no such builder, or these weights are not for it."""
    if not is_own(name) and name not in (SCENES_BUILDER, *fpn_builders()):
        raise ConfigError(
            f"detector.builder: {name!r} is no detector with an FPN: use one of "
            f"{', '.join((SCENES_BUILDER, *fpn_builders()))}, or your own package.module:factory"
        )
    if is_own(name) and weights not in (None, "random"):
        raise ConfigError(
            f"detector.weights: {weights!r} is not for {name!r}: "
            "remove it, a factory of your own brings its weights or takes detector.checkpoint"
        )


def _call_factory(name: str) -> Any:
    make = load_own(name, "detector.builder")
    with own_code(f"detector.builder: {name!r} cannot be made"):
        model = make()
    for part in ("transform", "backbone"):
        if not hasattr(model, part):
            raise ConfigError(
                f"detector.builder: {name!r} returned a {type(model).__name__} without .{part}: "
                "return a torchvision-style detector"
            )
    return model
