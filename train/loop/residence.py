"""Which levels lie in the memory of the device that trains: those that fit, or as the user says."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import torch

from configs.errors import ConfigError
from data.reading.level_reader import LevelReader
from data.reading.resident import ResidentMaps, resident_bytes

log = logging.getLogger(__name__)

SHARE_OF_FREE_MEMORY = 0.5
"""Of a GPU's free memory, for maps; the rest is for steps."""


def resident_maps(
    readers: Sequence[LevelReader], setting: Literal["auto", "never", "always"], device: str
) -> list[ResidentMaps | None]:
    """Return each level's maps on the device, or None for a level that is streamed.

    `auto`: on a GPU as many levels as fit, the coarsest first; on a CPU none, whose caches are in
    its memory already. The log says which, and why. Raises ConfigError if `always` does not fit.
    """
    target = torch.device(device)
    if setting == "never" or (setting == "auto" and target.type != "cuda"):
        return [None] * len(readers)
    needed = [resident_bytes(reader) for reader in readers]
    free = free_bytes(target)
    room = None if free is None else int(SHARE_OF_FREE_MEMORY * free)
    fit = which_fit(needed, room)
    if setting == "always" and not all(fit):
        raise ConfigError(
            f"training.resident: the maps take {sum(needed) / 1e9:.2f} GB, more than "
            f"{SHARE_OF_FREE_MEMORY:.0%} of the {(free or 0) / 1e9:.2f} GB that are free on "
            f"{device}: auto streams what does not fit"
        )
    found: list[ResidentMaps | None] = []
    for reader, num_bytes, fits in zip(readers, needed, fit, strict=True):
        maps = _loaded(reader, setting, target) if fits else None
        found.append(maps)
        log.info(
            "training.resident=%s: level %d %s: its maps take %.2f GB%s",
            setting, reader.info.index,
            f"lies on {device}" if maps is not None else "is streamed", num_bytes / 1e9,
            "" if free is None else
            f", {SHARE_OF_FREE_MEMORY:.0%} of {free / 1e9:.2f} GB free there are for maps",
        )  # fmt: skip
    return found


def which_fit(needed: Sequence[int], room: int | None) -> list[bool]:
    """Return which levels fit into so many bytes together, the last, coarsest, taken first.

    None: there is no limit.
    """
    fit = []
    for num_bytes in reversed(needed):
        fits = room is None or num_bytes <= room
        fit.append(fits)
        if room is not None and fits:
            room -= num_bytes
    return fit[::-1]


def free_bytes(device: torch.device) -> int | None:
    """Return a GPU's free memory, what torch keeps of it for new tensors included; else None."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free) + kept


def _loaded(reader: LevelReader, setting: str, device: torch.device) -> ResidentMaps | None:
    try:
        return ResidentMaps(reader, device)
    except torch.OutOfMemoryError:
        if setting == "always":
            raise ConfigError(
                f"training.resident: level {reader.info.index} does not fit into the memory of "
                f"{device}, which others take too: auto streams what does not fit"
            ) from None
        return None
