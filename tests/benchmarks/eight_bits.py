"""Codecs trained from 8 bits beside those from float16, two seeds: validation loss and mAP.

Needs Penn-Fudan and its detector beside the project (`shared/`), so it is not among those that
`make bench` runs: `python -m tests.benchmarks.eight_bits`. All are validated, and detected on, in
float16.
"""

from __future__ import annotations

import csv
import shutil
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import click

from analyze.cli import analyze_levels
from configs.schema.data import StoredType
from data.reading.level_reader import LevelReader
from extract.cli import extract_features
from tests.benchmarks.report import Goal, Table, main
from train.cli import train_level
from train.loop.validation import validate
from train.runs.checkpoint import BEST_NAME, load_codec
from train.runs.run_folder import find_runs

SHARED = Path(__file__).parents[3] / "shared"
LEVELS = (2, 3, 4)
SEEDS = (0, 1)
DTYPES: tuple[StoredType, ...] = ("float16", "uint8")
LAMBDA = 0.001
EPOCHS = 40
MEASURES = ("loss", "mAP")

CONFIG = f"""\
data:
  name: pennfudan
  format: coco
  splits:
    train:
      images: {SHARED}/datasets/pennfudan/images
      annotations: {SHARED}/datasets/pennfudan/annotations/train.json
    val:
      images: {SHARED}/datasets/pennfudan/images
      annotations: {SHARED}/datasets/pennfudan/annotations/val.json
detector:
  builder: fasterrcnn_mobilenet_v2_fpn
  checkpoint: {SHARED}/detectors/pedestrian.pth
  min_size: 320
  max_size: 533
model: {{n_hidden: 32, n_channels: 48}}
training:
  {{learning_rate: 1e-3, lambda: {LAMBDA}, batch_size: 8, epochs: {EPOCHS}, precision: float32}}
validation: {{interval: 5, num_samples: 1}}
"""

Measured = dict[tuple[StoredType, int, int], dict[str, float]]
"""(dtype, seed, level) -> measure -> value."""


def run(folder: Path) -> list[Table]:
    """Extract val once and train in both types; train each level from both, with two seeds."""
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    _extract(config, folder / "float16", "float16", "train", "val")
    _extract(config, folder / "uint8", "uint8", "train")
    shutil.copytree(folder / "float16" / "val", folder / "uint8" / "val", dirs_exist_ok=True)
    found: Measured = {}
    for seed, dtype in product(SEEDS, DTYPES):
        found |= _trained(config, folder, dtype, seed)
    return [_table(found, measure) for measure in MEASURES]


def _extract(config: Path, features: Path, dtype: StoredType, *splits: str) -> None:
    chosen = [part for split in splits for part in ("--split", split)]
    _call(extract_features, "--config", config, "--features", features, "--dtype", dtype, *chosen)


def _trained(config: Path, folder: Path, dtype: StoredType, seed: int) -> Measured:
    """Train the levels and measure the best codec of each."""
    features, runs = folder / dtype, folder / f"runs_{dtype}_{seed}"
    common = ("--config", config, "--features", features)
    for level in LEVELS:
        settings = (f"training.seed={seed}", f"training.save_dir={runs}/codec")
        sets = [part for each in settings for part in ("--set", each)]
        _call(train_level, *common, "--level", level, *sets)
    report = folder / f"report_{dtype}_{seed}"
    _call(analyze_levels, *common, "--checkpoints", runs, "--anchors", "none", "--report", report)
    with (report / "levels.csv").open(encoding="utf-8") as file:
        map_of = {
            int(row["level"]): float(row["map"]) for row in csv.DictReader(file) if row["map"]
        }
    found: Measured = {}
    for trained in find_runs(runs):
        codec, _ = load_codec(trained.folder / BEST_NAME)
        with LevelReader(features / "val", trained.level) as reader:
            loss = validate(codec, reader, 8, LAMBDA, "cpu").loss
        found[dtype, seed, trained.level] = {"loss": loss, "mAP": map_of[trained.level]}
    return found


def _table(found: Measured, measure: str) -> Table:
    """Compare the types' means with what the seeds differ by."""
    rows, goals = [], []
    for level in LEVELS:
        values = {dtype: [found[dtype, seed, level][measure] for seed in SEEDS] for dtype in DTYPES}
        between = abs(mean(values["uint8"]) - mean(values["float16"]))
        of_seeds = max(max(each) - min(each) for each in values.values())
        rows.append([f"level {level}", *values["float16"], *values["uint8"], between, of_seeds])
        goals.append(
            Goal(
                what=f"level {level}, {measure}: types' difference over seeds' difference",
                ratio=between / max(of_seeds, 1e-12),
                at_most=1.0,
            )
        )
    return Table(
        title=f"eight_bits: {measure} of val, trained from float16 and from 8 bits",
        columns=[
            "", *(f"{dtype}, seed {seed}" for dtype, seed in product(DTYPES, SEEDS)),
            "types differ", "seeds differ",
        ],
        rows=rows,
        goals=goals,
    )  # fmt: skip


def _call(command: click.Command, *arguments: Any) -> None:
    command.main([*map(str, arguments), "--log-level", "warning"], standalone_mode=False)


if __name__ == "__main__":
    main("eight_bits", run)
