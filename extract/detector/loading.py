"""A detector with its weights: loaded, described for a manifest, hashed, and run in its parts.

Whatever the architecture, the rest of the project uses two parts of it: `model.transform` (resize,
normalise, pad) and `model.backbone` (image batch in, one map per FPN level out, finest first).
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from configs.errors import ConfigError
from configs.own_code import is_own
from configs.schema.data import DEFAULT_BUILDER, DetectorConfig
from extract.detector.builders import build_detector, check_builder
from extract.detector.class_labels import head_of, label_names
from extract.detector.state_dicts import misfit, num_classes_of
from extract.detector.weights import (
    DEFAULT_WEIGHTS,
    file_sha256,
    read_checkpoint,
    read_named_weights,
    weights_file,
)

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedDetector:
    """A detector in eval mode, what it was built from, and what its labels mean."""

    model: Any
    """Has `.transform` and `.backbone`; called as torchvision's detectors are."""
    weights_sha256: str
    classes: tuple[str, ...] | None
    """As the weights' file names them (see `label_names`); None when nobody said."""
    weights_file_sha256: str | None
    """Hash of the file that held the weights; None if they came from no file."""


def load_detector(config: DetectorConfig, device: str | torch.device = "cpu") -> LoadedDetector:
    """Build the configured detector with its weights, in eval mode, on `device`.

    Raises ConfigError for an unknown builder, weights that are not on this machine, or a
    checkpoint of another architecture.
    """
    builder = config.builder or DEFAULT_BUILDER
    check_builder(builder, config.weights)
    if config.checkpoint is not None:
        content = read_checkpoint(config.checkpoint)
        num_classes = num_classes_of(content.state)
        model = _built(config, num_classes)
        load_state(model, content.state, config.checkpoint, builder)
        if content.batch_norm_eps is not None:
            set_batch_norm_eps(model, content.batch_norm_eps)
        classes = content.classes
        _compare_names(classes, num_classes, model, config.checkpoint)
    elif config.weights == "random" or is_own(builder):
        model = _built(config, None)
        classes = None
    else:
        name = config.weights or DEFAULT_WEIGHTS
        named = read_named_weights(builder, name)
        model = _built(config, num_classes_of(named.state))
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


def _built(config: DetectorConfig, num_classes: int | None) -> Any:
    """Build the same weights each time, and leave to a run, which may load one, its own draws."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # no GPU's: they would keep it
        return build_detector(config, num_classes)


def _compare_names(
    classes: tuple[str, ...] | None, num_classes: int | None, model: Any, shown: str
) -> None:
    """Warn of names that the weights contradict: features need none, detection does."""
    if classes is None or num_classes is None:
        return
    try:
        label_names(classes, head_of(model))
    except ConfigError as error:
        _LOG.warning("%s: %s", shown, error)


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
    differing = [k for k in expected if k in state and expected[k].shape != state[k].shape]
    missing, unexpected = load_fitting(
        model, {key: state[key] for key in state if key not in differing}, shown
    )
    if missing or unexpected:
        first = (differing + missing + unexpected)[0]
        raise ConfigError(
            f"{shown}: does not fit detector.builder {builder!r}: "
            f"{len(missing) - len(differing)} tensors missing, {len(unexpected)} unexpected, "
            f"{len(differing)} of another shape (first: {first}): {misfit(state, expected)}"
        )


def load_fitting(
    model: nn.Module, state: Mapping[str, Tensor], shown: str
) -> tuple[list[str], list[str]]:
    """Copy the tensors that the model has; return the names that lack, and those it does not know.

    Layers' names of torchvision before 0.13, as in its own COCO weights, are understood. Raises
    ConfigError if one of these is of another shape.
    """
    try:
        found = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise ConfigError(
            f"{shown}: has layers of other shapes: {misfit(state, model.state_dict())}"
        ) from error
    # FrozenBatchNorm2d, which torchvision trains with, does not count batches; BatchNorm2d does.
    missing, unexpected = (
        [key for key in keys if not key.endswith("num_batches_tracked")]
        for keys in (found.missing_keys, found.unexpected_keys)
    )
    return missing, unexpected


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
