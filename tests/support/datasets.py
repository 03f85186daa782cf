"""Tiny real data sets for the tests: images are saved, configurations built as a user would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.schema.data import DataConfig, SplitConfig
from data.images.image_sets import load_images
from data.images.records import ImageSet


def save_image(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    """Save a gradient with noise; JPEG or PNG by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def load(format: str, *, classes: list[str] | None = None, **keys: Any) -> ImageSet:
    split = SplitConfig.model_validate({key: str(value) for key, value in keys.items()})
    return load_images(
        DataConfig.model_validate(
            {"name": "tiny", "format": format, "splits": {"val": split}, "classes": classes}
        ),
        "val",
    )


def one_line(message: str) -> str:
    """Pattern that matches the whole message, which has to be a single line."""
    return "^" + re.escape(message) + "$"
