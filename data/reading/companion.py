"""What is read beside a level, at the same places: the decoded coarser level, or latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import CacheError
from data.reading.level_reader import LevelReader


@dataclass(frozen=True, slots=True)
class Companion:
    """Maps of a level's samples on a coarser grid, out of one cache, or several that take turns.

    `readers`: levels of caches with the same samples in the same order. Where they are several,
    the stream's seed draws for each sample, anew in each epoch, from which it takes its map; all
    companions of equally many readers draw alike. `stride`: positions of the streamed level for
    each position of these maps, in each direction: they are of ceil(H / stride) x ceil(W / stride)
    positions. Raises CacheError of readers that cannot be read so, or not in each other's place.
    """

    readers: tuple[LevelReader, ...]
    stride: int

    def __post_init__(self) -> None:
        first = self.readers[0]
        for reader in self.readers:
            _refuse_crops(reader)
            if reader.code is not None:
                raise CacheError(
                    f"{_name(reader)}: is stored in 8 bits, what is read beside another level is "
                    "float16 or float32: make that cache anew with one of these as its dtype"
                )
            if (found := _kind(reader)) != (wanted := _kind(first)):
                raise CacheError(
                    f"{_name(reader)}: is of {found}, {_name(first)} of {wanted}: only caches that "
                    "are alike can take turns"
                )

    def require_beside(self, level: LevelReader) -> None:
        """Raise CacheError unless the maps are of the level's samples, and match its positions."""
        _refuse_crops(level)
        wanted = -(-level.shapes[:, :2] // self.stride)
        for reader in self.readers:
            if reader.num_samples != level.num_samples:
                raise CacheError(
                    f"{_name(reader)}: is of {reader.num_samples} images, {_name(level)} of "
                    f"{level.num_samples}: make it anew of that cache"
                )
            if (odd := np.flatnonzero(_image_ids(reader) != _image_ids(level))).size:
                here, there = (_image_ids(x)[odd[0]] for x in (reader, level))
                raise CacheError(
                    f"{_name(reader)}: its image number {odd[0]} has the id {here}, in "
                    f"{_name(level)} it is {there}: make it anew of that cache"
                )
            if (odd := np.flatnonzero((reader.shapes[:, :2] != wanted).any(axis=1))).size:
                found, due = reader.shapes[odd[0], :2], wanted[odd[0]]
                raise CacheError(
                    f"{_name(reader)}: its map of image number {odd[0]} is {_times(found)}, at a "
                    f"stride of {self.stride} in {_name(level)} it has to be {_times(due)}: name "
                    "the cache and level that belong to it"
                )

    def whole_map(self, index: int) -> NDArray[Any]:
        """Return a sample's map [H', W', C'], of the reader whose turn it is by its number."""
        return self.readers[index % len(self.readers)].sample(index)


def common_stride(beside: Sequence[Companion]) -> int:
    """Return of how many positions corners are multiples, to match those of all companions."""
    return math.lcm(*(companion.stride for companion in beside))


def _refuse_crops(reader: LevelReader) -> None:
    if (crop := reader.manifest.crop) is not None:
        raise CacheError(
            f"{_name(reader)}: holds crops of {crop} positions, whose places match in no other "
            "level: make that cache anew of whole maps, without cache.crop"
        )


def _name(reader: LevelReader) -> str:
    return f"{reader.cache}, level {reader.info.index}"


def _kind(reader: LevelReader) -> str:
    return f"{reader.info.num_channels} channels in {reader.dtype}"


def _image_ids(reader: LevelReader) -> NDArray[Any]:
    return np.array([sample.image_id for sample in reader.manifest.samples], dtype=np.int64)


def _times(shape: NDArray[Any]) -> str:
    height, width = shape.tolist()
    return f"{height} x {width}"
