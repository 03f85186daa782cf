"""What both commands check before they list images, which takes minutes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from configs.options import choose_device

if TYPE_CHECKING:
    from configs.schema.config import Config


def check_first(settings: Config, splits: Iterable[str], device: str) -> None:
    """Raise ConfigError for a device, a checkpoint or a split that is not there."""
    from data.images.listing import find_split
    from extract.detector.weights import existing_checkpoint

    if device != "auto":  # every machine has that; a GPU is asked for before anything is listed
        choose_device(device)
    if settings.detector.checkpoint is not None:
        existing_checkpoint(settings.detector.checkpoint)
    for split in splits:
        find_split(settings.data, split)
