"""Image files and detectors for measuring extraction: nothing is downloaded."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from PIL import Image

from configs.schema.data import CacheConfig, DataConfig, DetectorConfig
from data.cache.manifest import Manifest
from data.images.image_sets import load_images
from data.images.records import ImageSet
from data.images.scenes import render_scene
from extract.detector.loading import LoadedDetector, load_detector
from extract.features.extraction import plan_extraction

NUM_IMAGES = 100
SIZE_WH_PX = (640, 480)
INPUT_PX = (256, 256)
BUILDERS = ("fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v2_fpn")

_SCENE_SEED = 5


def image_files(folder: Path) -> ImageSet:
    """Return 100 images: of the folder FPN_BENCH_IMAGES, or scenes saved as 640x480 JPEG files."""
    named = os.environ.get("FPN_BENCH_IMAGES")
    if named is None:
        folder.mkdir()
        for index in range(NUM_IMAGES):
            image = Image.fromarray(render_scene(index, _SCENE_SEED).image)
            image.resize(SIZE_WH_PX, Image.Resampling.BICUBIC).save(
                folder / f"{index:03d}.jpg", quality=90
            )
    config = DataConfig.model_validate(
        {"name": "bench", "format": "folder", "splits": {"train": {"images": named or str(folder)}}}
    )
    images = load_images(config, "train")
    return dataclasses.replace(images, records=images.records[:NUM_IMAGES])


def planned(
    builder: str, images: ImageSet, *, device: str = "cpu"
) -> tuple[LoadedDetector, Manifest]:
    """Return a detector of random weights and the plan of extracting with it at 256x256 px."""
    config = DetectorConfig(builder=builder, weights="random", resize=INPUT_PX)
    detector = load_detector(config, device)
    return detector, plan_extraction("bench", images, detector, config, CacheConfig())
