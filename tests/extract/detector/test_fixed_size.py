"""detector.resize: one size for images of all sizes, and detections still in their own pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from analyze.allocation.search import Target
from analyze.analysis import analyze
from analyze.detection.heads_on_levels import detect_from_levels
from analyze.facts.kept_results import Kept
from analyze.request import AnalysisRequest, Wanted
from configs.config_files import load_config
from data.cache.annotations import ANNOTATIONS_NAME
from data.cache.manifest import Manifest
from data.images.image_sets import load_images, read_image
from data.reading.level_reader import LevelReader
from extract.accuracy.average_precision import mean_average_precision
from extract.detector.class_labels import ClassHead, match_labels
from extract.detector.loading import load_detector
from tests.support.datasets import save_image
from tests.support.extraction import must_extract, plan_of, write_config

FIXED_HW = (144, 208)  # no multiple of 32, so that padding is part of the test
PADDED_HW = (160, 224)
CONFIG = """
data: {name: mixed, splits: {val: {num_scenes: 4, scene_seed: 2}}}
detector: {resize: [144, 208]}
"""


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def fixed_cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A float32 cache of four scenes at one fixed size, and its configuration."""
    folder = tmp_path_factory.mktemp("fixed")
    config = write_config(folder / "mixed.yaml", CONFIG)
    return must_extract(config, folder, "--dtype", "float32", split="val"), config


@pytest.fixture(scope="module")
def fixed_detector() -> Any:
    """The built-in detector with a transform that torchvision itself made for the fixed size."""
    model = load_detector(load_config().detector).model
    own = model.transform
    model.transform = GeneralizedRCNNTransform(
        own.min_size[-1],
        own.max_size,
        own.image_mean,
        own.image_std,
        fixed_size=(FIXED_HW[1], FIXED_HW[0]),
    ).eval()
    return model


def tensors_of(manifest: Manifest) -> list[Tensor]:
    """The images as torchvision's detectors take them, [3, H, W] float32 in 0..1."""
    images = [read_image(sample.file) for sample in manifest.samples]
    return [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images]


def test_images_of_mixed_sizes_land_in_one_bucket(fixed_cache: tuple[Path, Path]) -> None:
    manifest = Manifest.load(fixed_cache[0])
    assert len({(sample.height, sample.width) for sample in manifest.samples}) > 1
    assert {(s.input_height, s.input_width) for s in manifest.samples} == {FIXED_HW}
    (bucket,) = manifest.buckets
    assert (bucket.height_px, bucket.width_px) == PADDED_HW
    assert [sample.row for sample in manifest.samples] == list(range(4))
    assert manifest.detector["resize"] == list(FIXED_HW)


def test_features_are_those_of_torchvisions_own_transform_at_the_fixed_size(
    fixed_cache: tuple[Path, Path], fixed_detector: Any
) -> None:
    folder = fixed_cache[0]
    manifest = Manifest.load(folder)
    with torch.inference_mode():
        expected = [
            list(fixed_detector.backbone(fixed_detector.transform([image])[0].tensors).values())
            for image in tensors_of(manifest)
        ]
    for level in range(5):
        with LevelReader(folder, level) as reader:
            for index, maps in enumerate(expected):
                np.testing.assert_array_equal(
                    reader.sample(index), maps[level][0].permute(1, 2, 0).numpy()
                )


def test_cached_features_detect_what_the_detector_does_in_pixels_of_the_original_image(
    fixed_cache: tuple[Path, Path], fixed_detector: Any
) -> None:
    folder = fixed_cache[0]
    manifest = Manifest.load(folder)
    readers = [LevelReader(folder, level) for level in range(5)]
    farthest = []
    for index, (sample, image) in enumerate(
        zip(manifest.samples, tensors_of(manifest), strict=True)
    ):
        levels = {
            reader.info.key: torch.from_numpy(reader.sample(index).copy()).permute(2, 0, 1)[None]
            for reader in readers
        }
        found = detect_from_levels(fixed_detector, levels, (sample.height, sample.width))
        with torch.no_grad():
            expected = fixed_detector([image])[0]
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(found[name], expected[name])
        assert found["boxes"][:, 2].max() <= sample.width
        assert found["boxes"][:, 3].max() <= sample.height
        farthest.append(float(found["boxes"][:, 2].max()))
    for reader in readers:
        reader.close()
    assert max(farthest) > FIXED_HW[1]


def test_analysis_has_the_detectors_map_at_the_fixed_size(
    fixed_cache: tuple[Path, Path], fixed_detector: Any, tmp_path: Path
) -> None:
    folder, config = fixed_cache
    settings = load_config(str(config))
    findings = analyze(
        AnalysisRequest(
            cache=str(folder),
            split="val",
            config=settings,
            checkpoints=str(tmp_path / "none"),
            device=torch.device("cpu"),
        ),
        Wanted(target=Target(kind="map_drop", value=0.01)),
        str(tmp_path / "report"),
        Kept(None),
    )
    result = findings.result
    manifest = Manifest.load(folder)
    with torch.no_grad():
        detections = {
            sample.image_id: fixed_detector([image])[0]
            for sample, image in zip(manifest.samples, tensors_of(manifest), strict=True)
        }
    categories = load_images(settings.data, "val").categories
    head = ClassHead(num_outputs=len(categories) + 1, has_background=True)
    labels = match_labels(None, head, categories).category_of
    expected = mean_average_precision(detections, folder / ANNOTATIONS_NAME, labels)
    assert expected["map"] > 0.3
    assert result.original is not None
    assert result.original.map == pytest.approx(expected["map"], abs=1e-4)
    assert result.original.map_50 == pytest.approx(expected["map_50"], abs=1e-4)


def test_without_it_each_image_is_in_the_bucket_of_its_own_padded_size(tmp_path: Path) -> None:
    sizes = [(150, 80), (80, 150), (128, 96), (97, 129), (128, 96), (60, 60)]
    for number, (width, height) in enumerate(sizes):
        save_image(tmp_path / "photos" / f"{number}.png", width, height)
    config = write_config(
        tmp_path / "mixed.yaml",
        f"data: {{name: mixed, format: folder, splits: {{train: {{images: {tmp_path}/photos}}}}}}\n"
        "detector: {builder: fasterrcnn_mobilenet_v2_fpn, weights: random, min_size: 96,"
        " max_size: 128}\n",
    )
    manifest, detector = plan_of(config)
    for sample, image in zip(manifest.samples, tensors_of(manifest), strict=True):
        alone = detector.model.transform([image])[0]
        bucket = manifest.buckets[sample.bucket]
        assert (bucket.height_px, bucket.width_px) == tuple(alone.tensors.shape[-2:])
        assert [(sample.input_height, sample.input_width)] == alone.image_sizes
    assert len(manifest.buckets) == 3
    cache = must_extract(config, tmp_path, "--levels", "1", "--batch-size", "4")
    with LevelReader(cache, 1) as reader, torch.inference_mode():
        for index, image in enumerate(tensors_of(manifest)):
            batch = detector.model.transform([image])[0].tensors
            expected = detector.model.backbone(batch)["1"][0].permute(1, 2, 0).half()
            np.testing.assert_array_equal(reader.sample(index), expected.numpy())
