"""train-detector: parse, load, run, print."""

from __future__ import annotations

import logging
from typing import Any

import click

from configs.cores import share_cores
from configs.errors import ConfigError
from configs.log_setup import setup_logging
from configs.options import (
    choose_device,
    common_options,
    detection_checkpoint_option,
    run_command,
    training_splits,
    with_detection_checkpoint,
)
from extract.checked_first import check_first

log = logging.getLogger(__name__)


@click.command(name="train-detector")
@training_splits("Split that picks the best.")
@click.option("--fresh", is_flag=True, help="Start anew even if there is a last checkpoint.")
@detection_checkpoint_option
@common_options
@run_command
def train_detector(
    split: str, val_split: str, fresh: bool, detection_checkpoint: str | None,
    config: str | None, overrides: tuple[str, ...], device: str,
    log_level: str,
) -> None:  # fmt: skip
    """Fine-tune an FPN detector on the configured data set (torchvision's recipe).

    Writes best_model.pth and last_model.pth; run again to go on after an interruption.

    \b
      train-detector --config kitti
    """
    from configs.config_files import load_config
    from data.cache.annotations import boxes_sha256
    from data.images.image_sets import load_images
    from extract.accuracy.average_precision import evaluate_detector
    from extract.finetuning.finetune import finetune

    setup_logging(log_level)
    share_cores()
    settings = load_config(config, with_detection_checkpoint(overrides, detection_checkpoint))
    check_first(settings, (split, val_split), device)
    train_set = load_images(settings.data, split)
    val_set = load_images(settings.data, val_split)

    def evaluate(model: Any, classes: tuple[str, ...]) -> dict[str, float]:
        return evaluate_detector(model, classes, val_set)

    if not any((~record.ignored).any() for record in val_set.records):
        raise ConfigError(f"train-detector: the split {val_split!r} has no boxes to evaluate on")
    learned = set(train_set.categories.values())
    for category, name in val_set.categories.items():
        if name not in learned and any(
            (record.category_ids[~record.ignored] == category).any() for record in val_set.records
        ):
            log.warning("mAP counts AP 0 for %r: the split %r does not have it", name, split)
    best = finetune(
        settings.detector, train_set, settings.detector_training,
        evaluate=evaluate, device=choose_device(device), resume=not fresh,
        boxes={split: boxes_sha256(train_set), val_split: boxes_sha256(val_set)},
    )  # fmt: skip
    click.echo(f"best model -> {best}")
