"""A level's maps in the memory of the device that trains: which fit, and batches gathered there.

The maps lie there as they are stored, one after another. A batch is gathered by the same runs as
from files, so it has the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import ConfigError
from data.reading.level_reader import LevelReader
from data.system.array_files import page_ranges

_LOADED_BYTES = 64 * 2**20
"""What is copied to the device at once."""
_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
log = logging.getLogger(__name__)

SHARE_OF_FREE_MEMORY = 0.5
"""Of a GPU's free memory, for maps; the rest is for steps."""


class ResidentMaps:
    """All maps of a level on a device: sample i begins at `starts[i]`, in values, int64 [n].

    They are read once, in the order of the files, and checked as the reader is told to check them.
    Raises CacheError if one is damaged, torch.OutOfMemoryError if they do not fit.
    """

    def __init__(self, reader: LevelReader, device: str | torch.device) -> None:
        target = torch.device(device)
        lengths = reader.shapes.prod(axis=1)
        order = np.argsort(reader.starts)
        ends = np.cumsum(lengths[order])
        self.starts: NDArray[Any] = np.empty_like(ends)
        self.starts[order] = ends - lengths[order]
        stored = reader.values_to_gather
        self.values = torch.empty(int(ends[-1]), dtype=stored.dtype, device=target)
        # A gather copies word by word: as few as can be. A run is of whole positions.
        position_bytes = int(reader.shapes[0, 2]) * reader.dtype.itemsize
        word_bytes = next(size for size in _WORDS if position_bytes % size == 0)
        self._values_per_word = word_bytes // reader.dtype.itemsize
        self._words = self.values.view(_WORDS[word_bytes])
        pin_memory = target.type == "cuda"
        groups = _groups(ends, _LOADED_BYTES // reader.dtype.itemsize)
        for number, group in enumerate(groups):
            members = order[group]
            for soon in groups[number : number + 2]:
                _prefetch(reader, order[soon], lengths)
            reader.require_whole(members)
            first, last = int(self.starts[members[0]]), int(ends[group][-1])
            part = torch.empty(last - first, dtype=stored.dtype, pin_memory=pin_memory)
            reader.copied(
                members,
                partial(_copy, stored, reader.starts[members], lengths[members], part),
            )
            self.values[first:last].copy_(part)

    @property
    def device(self) -> torch.device:
        """Where the maps lie."""
        return self.values.device

    def gather(self, offsets: NDArray[Any], run_length: int, out: Tensor) -> None:
        """Fill `out` [n * run_length] with the runs that begin at `offsets` int64 [n], in values.

        Both are of whole positions. Nothing waits for the device.
        """
        words, length = self._words, run_length // self._values_per_word
        index = torch.from_numpy(offsets // self._values_per_word)
        if self.device.type == "cuda":
            index = index.pin_memory().to(self.device, non_blocking=True)
        windows = words.as_strided((len(words) - length + 1, length), (1, 1))
        torch.index_select(windows, 0, index, out=out.view(words.dtype).view(len(index), length))


def resident_bytes(reader: LevelReader) -> int:
    """Return how many bytes a level's maps take."""
    return reader.num_values(range(reader.num_samples)) * reader.dtype.itemsize


def _groups(ends: NDArray[Any], most_values: int) -> list[slice]:
    """Return which samples are loaded together: at most so many values, one sample at least."""
    groups, first = [], 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + most_values, side="right"))
        groups.append(slice(first, max(last, first + 1)))
        first = groups[-1].stop
    return groups


def _copy(stored: Tensor, starts: NDArray[Any], lengths: NDArray[Any], out: Tensor) -> None:
    """Copy the maps that begin at `starts` one after another, in values."""
    place = 0
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        out[place : place + length].copy_(stored[start : start + length])
        place += length


def _prefetch(reader: LevelReader, members: NDArray[Any], lengths: NDArray[Any]) -> None:
    if reader.expect(members):
        return
    size = reader.dtype.itemsize
    longest = int(lengths[members].max()) * size
    for start, length in page_ranges(reader.starts[members] * size, longest):
        reader.files.prefetch(start, min(length, reader.files.num_bytes - start))


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
