"""train-level: parse, load, run, print."""

from __future__ import annotations

import math
from pathlib import Path

import click

from configs.errors import ConfigError
from configs.loading import load_config
from configs.options import (
    choose_device,
    common_options,
    detection_checkpoint_option,
    features_option,
    run_command,
    setup_logging,
    with_detection_checkpoint,
)
from configs.schema import Config
from data.manifest import Manifest
from extract.freshness import refuse_stale_cache
from train.loop import train_level as run_training


@click.command(name="train-level")
@click.option("--level", required=True, metavar="0..4|all", help="Which FPN level to train.")
@click.option("--split", default="train", show_default=True, help="Split to learn from.")
@click.option("--val-split", default="val", show_default=True, help="Split to validate on.")
@click.option(
    "--lambda",
    "lambdas",
    type=click.FloatRange(min=0),
    multiple=True,
    help="Weight of the rate; overrides training.lambda (repeatable).",
)
@click.option("--epochs", type=click.IntRange(1), help="Overrides training.epochs.")
@click.option("--batch-size", type=click.IntRange(1), help="Overrides training.batch_size.")
@click.option("--out", metavar="DIR", help="Folder for the runs; default: checkpoints/.")
@detection_checkpoint_option
@features_option
@common_options
@run_command
def train_level(
    level: str, split: str, val_split: str, lambdas: tuple[float, ...], epochs: int | None,
    batch_size: int | None, out: str | None, detection_checkpoint: str | None,
    config: str | None, overrides: tuple[str, ...], features: str | None, device: str,
    log_level: str,
) -> None:  # fmt: skip
    """Train the codec of one FPN level from its cache; the detector is not needed.

    \b
      train-level --level 0
      train-level --level all --lambda 0.01 --lambda 0.03
    """
    setup_logging(log_level)
    given = {"training.epochs": epochs, "training.batch_size": batch_size}
    settings = load_config(config, (
        *with_detection_checkpoint(overrides, detection_checkpoint),
        *(f"{key}={value}" for key, value in given.items() if value is not None),
    ))  # fmt: skip
    if detection_checkpoint and not Path(detection_checkpoint).is_file():
        # A configuration may name a checkpoint that only another machine has; an option may not.
        raise ConfigError(f"--detection-checkpoint {detection_checkpoint}: no such file")
    root = Path(features or Path("features") / settings.data.name)
    levels = _levels(level, root / split)
    for name in dict.fromkeys((split, val_split)):
        refuse_stale_cache(root / name, name, settings)
    save_dir = Path(settings.training.save_dir)
    if out is not None:
        save_dir = Path(out) / save_dir.name
    torch_device = choose_device(device)
    trials = [_with_lambda(settings, lmbda) for lmbda in lambdas] or [settings]
    for number in levels:
        for trial in trials:
            folder = run_training(
                root / split, root / val_split, number, trial,
                device=torch_device, save_dir=save_dir,
            )  # fmt: skip
            click.echo(f"level {number}, lambda {trial.training.lmbda:g} -> {folder}")


def _levels(text: str, cache: Path) -> list[int]:
    if text == "all":
        return [level.index for level in Manifest.load(cache).levels]
    if not text.isdecimal():
        raise ConfigError(f"--level {text}: use a level's number (0 is the finest), or all")
    return [int(text)]


def _with_lambda(config: Config, lmbda: float) -> Config:
    if not math.isfinite(lmbda):
        raise ConfigError(f"--lambda {lmbda}: use a finite number, 0 or more")
    training = config.training.model_copy(update={"lmbda": lmbda})
    return config.model_copy(update={"training": training})
