"""A tiny real study: caches that the real extraction wrote from built-in scenes, and a tiny codec.

The fixture `study` of all tests has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.config_files import check_config, dump_config
from configs.schema.config import Config
from data.images.image_sets import load_images
from data.images.scenes import render_scene
from extract.detector.builders import build_detector
from extract.detector.loading import load_detector, prepare_images
from extract.features.extraction import extract, plan_extraction

SETTINGS: dict[str, Any] = {
    "data": {
        "name": "tiny",
        "splits": {
            "train": {"num_scenes": 6, "scene_seed": 11},
            "val": {"num_scenes": 3, "scene_seed": 12},
        },
    },
    "detector": {"min_size": 96, "max_size": 128},
    "model": {"n_hidden": 8, "n_channels": 12},
    "training": {"batch_size": 4, "epochs": 2, "learning_rate": 1e-3, "precision": "float32"},
    "validation": {"num_samples": 2},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyStudy:
    """Where the caches lie, and the settings that made them."""

    root: Path
    config: Config
    config_file: Path

    @property
    def train_cache(self) -> Path:
        return self.root / "train"

    @property
    def val_cache(self) -> Path:
        return self.root / "val"


def tiny_config(**training: Any) -> Config:
    """The study's settings with some of `training` replaced (`lmbda` is spelt `lambda` in YAML)."""
    changed = {("lambda" if key == "lmbda" else key): value for key, value in training.items()}
    return check_config({**SETTINGS, "training": SETTINGS["training"] | changed}, "tiny study")


def save_detector(path: Path, seed: int = 0) -> Path:
    """Save a detector of random weights whose batch norms know the scenes.

    Without that, random weights give features that all but vanish on the way to the coarse levels.
    Its proposals are larger than the anchors, so that most overlap and few are left: hundreds, all
    different, would take two thirds of a detection.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_detector(tiny_config().detector, 6)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches seen
    with torch.no_grad():
        model.rpn.head.bbox_pred.bias.view(-1, 4)[:, 2:] += 1.0
    batch, _ = prepare_images(model.eval(), [render_scene(n, 13).image for n in range(4)])
    with torch.no_grad():
        model.backbone.train()(batch)
    torch.save(model.state_dict(), path)
    return path


def with_detector(config: Config, checkpoint: Path) -> Config:
    """The same settings with another detector checkpoint."""
    detector = config.detector.model_copy(update={"checkpoint": str(checkpoint)})
    return config.model_copy(update={"detector": detector})


def extract_tiny(root: Path, config: Config, splits: Iterable[str]) -> None:
    """Run the real extraction of these splits into root/<split>."""
    detector = load_detector(config.detector)
    for split in splits:
        images = load_images(config.data, split)
        manifest = plan_extraction(
            config.data.name, images, detector, config.detector, config.cache
        )
        extract(root / split, manifest, images, detector.model, batch_size=2, num_workers=1)


def make_study(folder: Path) -> TinyStudy:
    """Make caches of the splits train (6 scenes) and val (3), all five levels, zarr, float16."""
    config = with_detector(tiny_config(), save_detector(folder / "detector.pth"))
    extract_tiny(folder / "features", config, ("train", "val"))
    config_file = folder / "tiny.yaml"
    config_file.write_text(dump_config(config), encoding="utf-8")
    return TinyStudy(root=folder / "features", config=config, config_file=config_file)
