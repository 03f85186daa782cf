"""What each way costs an image: real bytes and real errors, by coding each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.file_format.image_file import section_size
from analyze.file_format.section_heads import Kind, Section
from analyze.image_choice.chain_choice import WayCosts
from analyze.image_choice.ways import Way, Ways
from analyze.maps.map_source import as_batch
from analyze.streams.ensemble import CodedLevel, DerivedLevel, ModelLevel
from analyze.streams.level_file import (
    SeenLevel,
    decode_sections,
    encode_section,
    predicted_section,
)
from analyze.streams.pyramid_codec import ListedModels
from train.codecs.layers.context_path import Context


class WayMeter:
    """Sends an image's levels in all ways, coarse to fine, each beside what is decoded of it."""

    def __init__(
        self, ways: Ways, means: Mapping[int, NDArray[Any]], listed: ListedModels, device: str
    ) -> None:
        """Take the codecs of `listed`, and what stands for dropped levels, float32 [C] each."""
        self._ways = ways.each
        self._means = means
        self._listed = listed
        self._device = device
        self._seen = {way.beside for way in ways.each}

    def costs(self, maps: Mapping[int, NDArray[Any]]) -> WayCosts:
        """Return the costs of one image's maps, float [H, W, C] of every level: I is 1."""
        there: dict[int, Context] = {}
        before: dict[int, tuple[int, int] | None] = {}
        finer: tuple[int, int] | None = None
        for level, values in sorted(maps.items()):
            before[level] = finer
            finer = (int(values.shape[0]), int(values.shape[1]))
        sizes, errors = [], []
        for place, way in enumerate(self._ways):
            section, error = self._sent(place, way, maps[way.level], there)
            sizes.append(section_size(section, before[way.level]))
            errors.append(error)
        return WayCosts(
            num_bytes=np.array([sizes], dtype=np.int64), mse=np.array([errors], dtype=np.float64)
        )

    def _sent(
        self, place: int, way: Way, values: NDArray[Any], there: dict[int, Context]
    ) -> tuple[Section, float]:
        """Return what is sent of a level, and its MSE; decoded, if seen, it is added to `there`."""
        how, size_hw = way.how, (int(values.shape[0]), int(values.shape[1]))
        if isinstance(how, DerivedLevel):
            section = Section(
                level=way.level, kind=Kind.DERIVED, size_hw=size_hw, source=how.source
            )
            return section, 0.0
        if not isinstance(how, ModelLevel):
            section = Section(level=way.level, kind=Kind.DROPPED, size_hw=size_hw)
            mean = self._means[way.level].astype(np.float32)
            return section, _mse(np.broadcast_to(mean, values.shape), values)
        codec = self._listed.codecs[how.model_sha256, way.level]
        context = None if way.beside is None else there[way.beside]
        if isinstance(how, CodedLevel):
            beside = None
            if way.beside is not None and context is not None:
                beside = SeenLevel(self._ways[way.beside].level, context)
            batch = as_batch(values).to(self._device)
            section, decoded = encode_section(codec, batch, level=way.level, beside=beside)
        else:
            assert way.beside is not None, "predicted from a coarser level"
            coarser = self._ways[way.beside].level
            section = predicted_section(codec, size_hw, level=way.level, context_level=coarser)
            decoded = decode_sections(codec, [section], "encoder", context)
        if place in self._seen:
            there[place] = decoded
        restored = decoded.maps[0].permute(1, 2, 0).cpu().numpy()
        section = replace(section, model=self._listed.numbers[how.model_sha256])
        return section, _mse(restored, values)


def _mse(restored: NDArray[Any], values: NDArray[Any]) -> float:
    difference: NDArray[Any] = restored - np.asarray(values, dtype=np.float32)
    return float(np.square(difference, dtype=np.float64).mean())
