"""Detectors by name, with their weights: torchvision's FPN builders, ours for CPUs, or the user's.

Whatever the architecture, the rest of the project uses two parts of it: `model.transform` (resize,
normalise, pad) and `model.backbone` (image batch in, one map per FPN level out, finest first).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import detection, mobilenet_v2
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead

from configs.errors import ConfigError
from configs.own_code import load_own
from configs.schema.data import DEFAULT_BUILDER, SCENES_BUILDER, DetectorConfig
from extract.detector.weights import (
    DEFAULT_WEIGHTS,
    file_sha256,
    read_checkpoint,
    read_named_weights,
    weights_file,
)

_OWN_BUILDER_DEFAULTS_PX = {"min_size": 320, "max_size": 533}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedDetector:
    """A detector in eval mode, what it was built from, and what its labels mean."""

    model: Any
    """Has `.transform` and `.backbone`; called as torchvision's detectors are."""
    weights_sha256: str
    classes: tuple[str, ...] | None
    """Label i is classes[i - 1]; None when nobody said."""
    weights_file_sha256: str | None
    """Hash of the file that held the weights; None if they came from no file."""


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


def load_detector(config: DetectorConfig, device: str | torch.device = "cpu") -> LoadedDetector:
    """Build the configured detector with its weights, in eval mode, on `device`.

    Raises ConfigError for an unknown builder, weights that are not on this machine, or a
    checkpoint of another architecture.
    """
    builder = config.builder or DEFAULT_BUILDER
    _check_builder(builder, config.weights)
    if config.checkpoint is not None:
        content = read_checkpoint(config.checkpoint)
        num_classes = _num_classes_of(content.state)
        model = build_detector(config, num_classes)
        load_state(model, content.state, config.checkpoint, builder)
        if content.batch_norm_eps is not None:
            set_batch_norm_eps(model, content.batch_norm_eps)
        classes = content.classes
    elif config.weights == "random" or ":" in builder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_detector(config, None)
        classes = None
    else:
        name = config.weights or DEFAULT_WEIGHTS
        named = read_named_weights(builder, name)
        model = build_detector(config, _num_classes_of(named.state))
        load_state(model, named.state, f"weights {name}", builder)
        if named.batch_norm_eps is not None:
            set_batch_norm_eps(model, named.batch_norm_eps)
        classes = named.classes
    model.eval().requires_grad_(False)
    file = weights_file(config)
    return LoadedDetector(
        weights_sha256=hash_weights(model),
        model=model.to(device),
        classes=classes,
        weights_file_sha256=None if file is None else file_sha256(file),
    )


def describe_detector(detector: LoadedDetector, config: DetectorConfig) -> dict[str, Any]:
    """Return what a manifest says of a detector, measured on it wherever that is possible."""
    transform = detector.model.transform
    return {
        "builder": config.builder or DEFAULT_BUILDER,
        "checkpoint": config.checkpoint,
        "weights": config.weights,
        "weights_sha256": detector.weights_sha256,
        "weights_file_sha256": detector.weights_file_sha256,
        "classes": list(detector.classes) if detector.classes else None,
        "configured": {"min_size": config.min_size, "max_size": config.max_size},
        "min_size": transform.min_size[-1],
        "max_size": transform.max_size,
        "resize": list(config.resize) if config.resize else None,
        "image_mean": list(transform.image_mean),
        "image_std": list(transform.image_std),
        "size_divisible": transform.size_divisible,
    }


def build_detector(config: DetectorConfig, num_classes: int | None) -> Any:
    """Build the architecture alone, at the configured input size, without meaningful weights."""
    name = config.builder or DEFAULT_BUILDER
    _check_builder(name, config.weights)
    sizes: dict[str, Any] = {}
    if config.min_size is not None:
        sizes["min_size"] = config.min_size
    if config.max_size is not None:
        sizes["max_size"] = config.max_size
    if ":" in name:
        model = _call_factory(name)
    elif name == SCENES_BUILDER:
        model = fasterrcnn_mobilenet_v2_fpn(num_classes=num_classes or 91, **sizes)
    else:
        model = torchvision.models.get_model_builder(name)(
            weights=None, weights_backbone=None, num_classes=num_classes or 91, **sizes
        )
    if ":" in name and sizes:
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


def prepare_images(
    model: Any, images: Sequence[NDArray[Any] | Tensor]
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Resize, normalise and pad uint8 [H, W, 3] images as the detector itself does, and where.

    Returns the batch float32 [B, 3, H, W], on the model's device, and each image's resized
    (height, width) before padding.
    """
    device = next(model.parameters()).device
    there = [torch.as_tensor(image).to(device, non_blocking=True) for image in images]
    listed, _ = model.transform([image.permute(2, 0, 1).float().div_(255) for image in there])
    return listed.tensors, list(listed.image_sizes)


def backbone_levels(model: Any, batch: Tensor) -> OrderedDict[str, Tensor]:
    """Run the backbone: float32 [B, 3, H, W] in, {key: [B, C, H_l, W_l]} out, finest first."""
    features = model.backbone(batch)
    return OrderedDict([("0", features)]) if isinstance(features, Tensor) else features


def load_state(model: nn.Module, state: Mapping[str, Tensor], shown: str, builder: str) -> None:
    """Copy a state dict into the model; raises ConfigError if it is of another architecture."""
    expected = model.state_dict()
    # FrozenBatchNorm2d, which torchvision trains with, does not count batches; BatchNorm2d does.
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in expected and not k.endswith("num_batches_tracked")]
    differing = [k for k in expected if k in state and expected[k].shape != state[k].shape]
    if missing or unexpected or differing:
        first = (missing + unexpected + differing)[0]
        raise ConfigError(
            f"{shown}: does not fit detector.builder {builder!r}: {len(missing)} tensors missing, "
            f"{len(unexpected)} unexpected, {len(differing)} of another shape (first: {first}): "
            "name the builder that the checkpoint was trained with"
        )
    model.load_state_dict(dict(state), strict=False)


def set_batch_norm_eps(model: nn.Module, eps: float) -> None:
    """Give every batch norm the epsilon its weights were trained with (0 for COCO_V1)."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | torchvision.ops.misc.FrozenBatchNorm2d):
            module.eps = eps


def hash_weights(model: nn.Module) -> str:
    """Return the SHA-256 over all tensors' names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def label_to_category(
    classes: tuple[str, ...] | None, num_labels: int, categories: Mapping[int, str]
) -> dict[int, int]:
    """Map the detector's labels 1..num_labels to the data set's category ids.

    By name where the detector names its classes, else by order where the counts agree, else label
    and id are taken to be the same number (COCO's 91). Raises ConfigError if none of these fits.
    """
    if classes is not None:
        by_name = {name.lower(): category for category, name in categories.items()}
        mapping = {
            label: by_name[name.lower()]
            for label, name in enumerate(classes, start=1)
            if name.lower() in by_name
        }
        if mapping:
            return mapping
    ordered = sorted(categories)
    if num_labels == len(ordered):
        return dict(enumerate(ordered, start=1))
    if ordered and ordered[-1] <= num_labels:
        return {category: category for category in ordered}
    raise ConfigError(
        f"the detector's {num_labels} classes {list(classes or ())} match none of the data set's "
        f"{len(ordered)} categories {list(categories.values())}: use a checkpoint trained on them"
    )


def num_labels(model: Any) -> int:
    """Return how many classes the detector's head tells apart, background not counted."""
    state = model.state_dict()
    count = _num_classes_of(state)
    if count is None:
        raise ConfigError("the detector's head is unknown: its number of classes cannot be read")
    return count - 1


def _num_classes_of(state: Mapping[str, Tensor]) -> int | None:
    """Size of the class head in a state dict, background included (as torchvision counts)."""
    if (box := state.get("roi_heads.box_predictor.cls_score.weight")) is not None:
        return int(box.shape[0])
    logits = state.get("head.classification_head.cls_logits.weight")
    boxes = state.get("head.regression_head.bbox_reg.weight")
    if logits is not None and boxes is not None:
        return int(logits.shape[0]) // (int(boxes.shape[0]) // 4)
    return None


def _check_builder(name: str, weights: str | None) -> None:
    if ":" not in name and name not in (SCENES_BUILDER, *fpn_builders()):
        raise ConfigError(
            f"detector.builder: {name!r} is no detector with an FPN: use one of "
            f"{', '.join((SCENES_BUILDER, *fpn_builders()))}, or your own package.module:factory"
        )
    if ":" in name and weights not in (None, "random"):
        raise ConfigError(
            f"detector.weights: {weights!r} is not for {name!r}: "
            "remove it, a factory of your own brings its weights or takes detector.checkpoint"
        )


def _call_factory(name: str) -> Any:
    model = load_own(name, "detector.builder")()
    for part in ("transform", "backbone"):
        if not hasattr(model, part):
            raise ConfigError(
                f"detector.builder: {name!r} returned a {type(model).__name__} without .{part}: "
                "return a torchvision-style detector"
            )
    return model
