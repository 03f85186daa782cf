"""The whole detector on images that went through a codec, in both sizes."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from analyze.detection.split_evaluator import SplitEvaluator
from analyze.facts.kept_results import Kept
from analyze.image_coding import image_study
from analyze.image_coding.image_anchors import ImageAnchor, image_jpeg
from analyze.image_coding.image_study import study_images
from analyze.measure.split import open_split
from configs.errors import BadImageError
from data.cache.cache_folder import CacheFolder
from data.images.image_sets import read_planned_image
from extract.detector.loading import prepare_images
from tests.support.tiny_study import TinyStudy


class Lossless:
    """Sends what it is given."""

    standard = "nothing"
    quality_name = "number"
    qualities = range(1, 2)

    def unavailable(self) -> str | None:
        return None

    def made_by(self) -> str:
        return "this test"

    def encode(self, image: NDArray[Any], _quality: int) -> bytes:
        return struct.pack("<HH", *image.shape[:2]) + image.tobytes()

    def decode(self, data: bytes) -> NDArray[Any]:
        height, width = struct.unpack_from("<HH", data)
        return np.frombuffer(bytearray(data[4:]), np.uint8).reshape(height, width, 3)


@pytest.fixture(scope="module")
def evaluator(study: TinyStudy) -> Iterator[SplitEvaluator]:
    cache = CacheFolder(study.val_cache)
    with open_split(cache, "val", study.config, device="cpu", limit=2, options="") as opened:
        assert opened.evaluator is not None
        yield opened.evaluator


def inputs_of(
    evaluator: SplitEvaluator, anchor: ImageAnchor, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """What the backbone sees of the first image, and what the detector finds."""
    seen: list[torch.Tensor] = []
    found: list[dict[str, torch.Tensor]] = []
    real_levels, real_heads = image_study.backbone_levels, image_study.detect_from_levels

    def levels(detector: Any, batch: torch.Tensor) -> Any:
        seen.append(batch)
        return real_levels(detector, batch)

    def heads(*given: Any) -> dict[str, torch.Tensor]:
        found.append(real_heads(*given))
        return found[-1]

    monkeypatch.setattr(image_study, "backbone_levels", levels)
    monkeypatch.setattr(image_study, "detect_from_levels", heads)
    study_images(anchor, dataclasses.replace(evaluator, indices=range(1)), Kept(None))
    return seen, found


def test_what_is_sent_without_loss_is_detected_as_the_detector_itself_does(
    evaluator: SplitEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = next(iter(evaluator.readers.values())).manifest.samples[0]
    image = read_planned_image(sample.file, (sample.height, sample.width))
    expected, _ = prepare_images(evaluator.detector, [image])
    tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        (whole,) = evaluator.detector([tensor])
    anchor = ImageAnchor(codec=Lossless(), qualities=(1,))
    (resized, original), (_, of_original) = inputs_of(evaluator, anchor, monkeypatch)
    assert (sample.input_height, sample.input_width) != (sample.height, sample.width)
    assert torch.equal(original, expected)
    for name, values in whole.items():
        torch.testing.assert_close(of_original[name], values)
    # The sender rounds to whole numbers, the detector does not resize again: half a step each.
    half_step = 0.5 / 255 / min(evaluator.detector.transform.image_std)
    assert resized.shape == expected.shape
    assert 0 < (resized - expected).abs().max() <= half_step * 1.001


def test_bytes_are_those_of_the_files_and_rise_with_quality(evaluator: SplitEvaluator) -> None:
    anchor = image_jpeg((10, 80))
    found = study_images(anchor, evaluator, Kept(None))
    assert [(each.title, each.point) for each in found] == [
        ("image, JPEG, input size", "quality 10"),
        ("image, JPEG, input size", "quality 80"),
        ("image, JPEG, original size", "quality 10"),
        ("image, JPEG, original size", "quality 80"),
    ]
    samples = next(iter(evaluator.readers.values())).manifest.samples[:2]
    images = [read_planned_image(each.file, (each.height, each.width)) for each in samples]
    assert [each.num_bytes for each in found[2:]] == [
        sum(len(anchor.codec.encode(image, quality)) for image in images) for quality in (10, 80)
    ]
    assert found[0].num_bytes < found[1].num_bytes
    assert all(0 <= each.accuracy.map <= 1 for each in found)


def test_second_study_decodes_no_image_and_one_more_quality_costs_that_alone(
    evaluator: SplitEvaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path)
    first = study_images(image_jpeg((10,)), evaluator, kept)
    coded = []
    real = type(image_jpeg().codec).encode

    def noting(self: Any, image: NDArray[Any], quality: int) -> bytes:
        coded.append(quality)
        return real(self, image, quality)

    monkeypatch.setattr(type(image_jpeg().codec), "encode", noting)
    assert study_images(image_jpeg((10,)), evaluator, kept) == first
    assert coded == []
    more = study_images(image_jpeg((10, 50)), evaluator, kept)
    assert set(coded) == {50}
    assert (more[0], more[2]) == first


def test_image_that_is_gone_is_named(
    evaluator: SplitEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        image_study, "read_planned_image", lambda _, hw: read_planned_image("gone/a.jpg", hw)
    )
    with pytest.raises(BadImageError, match=r"^gone/a.jpg: "):
        study_images(image_jpeg((10,)), evaluator, Kept(None))
