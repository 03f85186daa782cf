"""Images through a codec and through the whole detector: bits of each rate point, and its mAP."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analyze.detection.heads_on_levels import detect_from_levels, detect_together, takes_batches
from analyze.detection.split_evaluator import SplitEvaluator
from analyze.facts.kept_results import Kept
from analyze.image_coding.image_anchors import ImageAnchor, Size
from data.images.image_sets import read_planned_image
from extract.accuracy.bootstrap import Accuracy
from extract.accuracy.matches import Detections
from extract.detector.loading import backbone_levels, prepare_images

_LOG = logging.getLogger(__name__)

_METHOD = "image anchor 1"
_MOST_GPU_PIXELS = 4 * 2**20  # of one call of the backbone, as at extraction


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageMeasurement:
    """One codec at one quality and size, over the split's images."""

    title: str
    point: str
    num_bytes: int
    """Of all images, see `still_images` for what is counted."""
    accuracy: Accuracy


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """How an image is sent."""

    size: Size
    quality: int


def study_images(
    anchor: ImageAnchor, evaluator: SplitEvaluator, kept: Kept
) -> tuple[ImageMeasurement, ...]:
    """Return each rate point of an anchor that is available; `kept` is asked first.

    Each image is decoded from its file once, and resized once. Raises BadImageError if a file is
    missing or not as at extraction, ConfigError if the codec refuses an image.
    """
    keys = [_key(settings, evaluator) for settings in anchor.points]
    found = [None if (kept_one := kept.get(key)) is None else kept_one.facts for key in keys]
    ways = [_way(settings) for settings in anchor.points]
    todo = [place for place, each in enumerate(found) if each is None]
    if todo:
        for place, facts in zip(
            todo, _measure(anchor, [ways[place] for place in todo], evaluator), strict=True
        ):
            kept.put(keys[place], facts, {})
            found[place] = facts
    return tuple(
        ImageMeasurement(
            title=anchor.title(way.size),
            point=anchor.point(way.quality),
            num_bytes=facts["bytes"],
            accuracy=Accuracy(**facts["accuracy"]),
        )
        for way, facts in zip(ways, found, strict=True)
        if facts is not None
    )


def keep_image_point(
    anchor: ImageAnchor, place: int, evaluator: SplitEvaluator, kept: Kept
) -> None:
    """Measure one rate point, by its place, so that `study_images` finds it in `kept`."""
    settings = anchor.points[place]
    (facts,) = _measure(anchor, [_way(settings)], evaluator)
    kept.put(_key(settings, evaluator), facts, {})


def unknown_ways(anchor: ImageAnchor, evaluator: SplitEvaluator, kept: Kept) -> list[int]:
    """Return the places of the rate points that are not kept."""
    keys = [_key(settings, evaluator) for settings in anchor.points]
    return [place for place, key in enumerate(keys) if kept.get(key) is None]


def _way(settings: dict[str, Any]) -> _Way:
    return _Way(size=settings["size"], quality=settings["quality"])


def _key(settings: dict[str, Any], evaluator: SplitEvaluator) -> dict[str, Any]:
    return {
        "method": _METHOD,
        "settings": settings,
        # The cache's fingerprint covers the detector's weights, its settings, and the image files.
        "cache": next(iter(evaluator.readers.values())).content_id,
        "images": len(evaluator.indices),
        "detection": [str(evaluator.device), evaluator.truth],
    }


def _measure(
    anchor: ImageAnchor, ways: Sequence[_Way], evaluator: SplitEvaluator
) -> list[dict[str, Any]]:
    """Return what is kept of each way, plain values."""
    samples = next(iter(evaluator.readers.values())).manifest.samples
    num_bytes: dict[int, list[int]] = {}

    def detect(detector: Any, index: int) -> list[dict[str, Tensor]]:
        sample = samples[index]
        original_hw = sample.height, sample.width
        image = read_planned_image(sample.file, original_hw)
        sender = _Sender(detector, image)
        sent = [anchor.codec.encode(sender.image(way.size), way.quality) for way in ways]
        num_bytes[index] = [len(data) for data in sent]
        inputs = [
            sender.detector_input(way.size, anchor.codec.decode(data))
            for way, data in zip(ways, sent, strict=True)
        ]
        return _detections(detector, inputs, original_hw)

    _LOG.info("%s: the whole detector on what is decoded", anchor.name)
    results = evaluator.found_by(detect, len(ways), evaluator.indices)
    facts = []
    for place, (way, result) in enumerate(zip(ways, results, strict=True)):
        accuracy = evaluator.evaluate(Detections.of(result)).accuracy
        total = sum(of_image[place] for of_image in num_bytes.values())
        _LOG.info(
            "%s, %s: mAP %.3f", anchor.title(way.size), anchor.point(way.quality), accuracy.map
        )
        facts.append({"bytes": total, "accuracy": dataclasses.asdict(accuracy)})
    return facts


class _Sender:
    """One image in both sizes, by the detector's own transform."""

    def __init__(self, detector: Any, image: NDArray[np.uint8]) -> None:
        self._detector = detector
        self._images: dict[Size, NDArray[np.uint8]] = {"original": image}
        # Resized, normalised, padded, [1, 3, H, W]; the image is its first so many rows, columns.
        self._input, ((self._rows, self._columns),) = prepare_images(detector, [image])
        transform = detector.transform
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=self._input.device)[:, None, None]
            for values in (transform.image_mean, transform.image_std)
        )
        self._mean, self._std = mean, std
        resized = self._input[0, :, : self._rows, : self._columns] * std + mean
        pixels = resized.mul(255).round().clamp(0, 255).to(torch.uint8)
        self._images["input"] = pixels.permute(1, 2, 0).contiguous().cpu().numpy()

    def image(self, size: Size) -> NDArray[np.uint8]:
        """Return what is coded, uint8 [H, W, 3]."""
        return self._images[size]

    def detector_input(self, size: Size, decoded: NDArray[Any]) -> Tensor:
        """Return the backbone's input float32 [1, 3, H, W] of a decoded image of this size."""
        if size == "original":
            return prepare_images(self._detector, [decoded])[0]
        pixels = torch.as_tensor(decoded).to(self._input.device).permute(2, 0, 1).float().div(255)
        batch = self._input.clone()
        batch[0, :, : self._rows, : self._columns] = (pixels - self._mean) / self._std
        return batch


def _detections(
    detector: Any, inputs: Sequence[Tensor], original_hw: tuple[int, int]
) -> list[dict[str, Tensor]]:
    """Run backbone and heads; on a GPU the inputs, which are of one size, are batches."""
    at_once = 1
    if inputs[0].device.type != "cpu" and takes_batches(detector):
        at_once = max(1, _MOST_GPU_PIXELS // (inputs[0].shape[-2] * inputs[0].shape[-1]))
    found: list[dict[str, Tensor]] = []
    for batch in torch.split(torch.cat(list(inputs)), at_once):
        maps = backbone_levels(detector, batch)
        levels = [
            {key: values[place : place + 1] for key, values in maps.items()}
            for place in range(len(batch))
        ]
        if at_once > 1:
            found += detect_together(detector, levels, original_hw)
        else:
            found += [detect_from_levels(detector, each, original_hw) for each in levels]
    return found
