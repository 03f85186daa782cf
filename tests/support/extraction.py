"""Run the real extract-features on tiny data, and look at what it left on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from configs.config_files import load_config
from data.cache.manifest import Manifest
from data.images.image_sets import load_images, read_image
from data.reading.level_reader import LevelReader
from extract.cli import extract_features
from extract.detector.loading import LoadedDetector, load_detector
from extract.features.extraction import plan_extraction

TINY_YAML = """
data:
  name: tiny
  splits:
    train: {num_scenes: 8, scene_seed: 23}
    val: {num_scenes: 3, scene_seed: 24}
detector:
  {builder: fasterrcnn_mobilenet_v2_fpn, checkpoint: DETECTOR, min_size: 96, max_size: 128}
cache: {shard_megabytes: 0.4}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyCache:
    """A cache that the command wrote: its folder, its container and the configuration file."""

    folder: Path
    container: str
    config: Path

    @property
    def manifest(self) -> Manifest:
        return Manifest.load(self.folder)

    def shard_files(self, level: int) -> list[Path]:
        ending = ".zarr" if self.container == "zarr" else ""
        folder = self.folder / f"level_{level}{ending}"
        return sorted(p for p in folder.rglob("*") if p.name.startswith(("c.", "shard-")))


def write_config(path: Path, text: str = TINY_YAML, detector: Path | None = None) -> Path:
    """Save a configuration; DETECTOR in it stands for a checkpoint file."""
    path.write_text(text.replace("DETECTOR", str(detector)), encoding="utf-8")
    return path


def run_extract(config: Path, features: Path, *options: str, split: str = "train") -> Result:
    """Run the command in this process; its exit code, output and exception are in the result."""
    arguments = ["--config", str(config), "--features", str(features), "--split", split]
    quiet = ["--device", "cpu", "--log-level", "warning"]
    return CliRunner().invoke(extract_features, [*arguments, *quiet, *options])


def must_extract(config: Path, features: Path, *options: str, split: str = "train") -> Path:
    """Run the command, which has to succeed; return the split's cache folder."""
    result = run_extract(config, features, *options, split=split)
    assert result.exit_code == 0, result.output
    return features / split


def error_of(result: Result) -> str:
    """The one line that a failed command printed as its error, after the word."""
    assert result.exit_code == 1, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.output
    return lines[0].removeprefix("Error: ")


def plan_of(config: Path, split: str = "train") -> tuple[Manifest, LoadedDetector]:
    """The plan that the command would follow, and the detector it would use."""
    settings = load_config(str(config))
    detector = load_detector(settings.detector)
    images = load_images(settings.data, split)
    plan = plan_extraction("tiny", images, detector, settings.detector, settings.cache)
    return plan, detector


def images_of(manifest: Manifest) -> list[NDArray[np.uint8]]:
    return [read_image(sample.file) for sample in manifest.samples]


def fingerprints(cache: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file of a cache."""
    return {
        str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(cache.rglob("*"))
        if path.is_file()
    }


def shard_bytes(cache: Path) -> dict[str, str]:
    """As `fingerprints`, without commits.jsonl, whose lines keep the order of events."""
    return {name: value for name, value in fingerprints(cache).items() if name != "commits.jsonl"}


def stored_values(cache: Path, level: int) -> NDArray[np.float64]:
    """All values of a level as float64 [positions, C], in the order of the manifest."""
    with LevelReader(cache, level) as reader:
        parts = [np.array(reader.sample(i), dtype=np.float64) for i in range(reader.num_samples)]
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
