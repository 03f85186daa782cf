"""Decoded maps of many runs, on disk while there is room; decoded again if they had to go."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from analyze.facts.candidates import Candidate
from analyze.maps.map_source import DecodedMaps, as_batch
from data.reading.level_reader import LevelReader
from data.system.threads import per_image
from train.runs.loaded_models import LoadedModels

_SHARE_OF_FREE_SPACE = 0.5


class DecodedLevels:
    """Files of decoded maps in one folder, the longest unused removed first."""

    def __init__(
        self,
        folder: Path,
        readers: Mapping[int, LevelReader],
        num_images: int,
        models: LoadedModels,
    ) -> None:
        """Take a folder that is there, and has room; nothing is decoded yet."""
        self._folder = folder
        self._readers = readers
        self._num_images = num_images
        self._models = models
        self._budget_bytes = int(shutil.disk_usage(folder).free * _SHARE_OF_FREE_SPACE)
        self._held: dict[Path, tuple[DecodedMaps, int]] = {}
        self._num_made = 0

    def of(self, runs: Iterable[Candidate]) -> dict[Path, DecodedMaps]:
        """Return run folder -> decoded maps; they stay valid until the next call."""
        wanted = {run.folder: run for run in runs}
        return {folder: self._maps(run, set(wanted)) for folder, run in wanted.items()}

    def fit(self, runs: Iterable[Candidate]) -> bool:
        """Say whether there is room for the maps of these runs together."""
        distinct = {run.folder: run for run in runs}.values()
        return sum(self._num_bytes(run) for run in distinct) <= self._budget_bytes

    def new(self, run: Candidate) -> DecodedMaps:
        """Return empty maps for a run, to be filled by who decodes its bitstreams."""
        return self._room_for(run, {run.folder})

    def _maps(self, run: Candidate, needed: set[Path]) -> DecodedMaps:
        if run.folder in self._held:
            entry = self._held.pop(run.folder)
            self._held[run.folder] = entry  # now the last to go
            return entry[0]
        maps = self._room_for(run, needed)
        self._decode(run, maps)
        return maps

    def _decode(self, run: Candidate, maps: DecodedMaps) -> None:
        """Fill `maps` by the codec's forward, which gives what its bitstreams decode to."""
        codec, device = self._models.codec(run.folder), self._models.device
        reader = self._readers[run.level]

        def decode(index: int) -> None:
            x_hat = codec(as_batch(reader.sample(index)).to(device))["x_hat"]
            maps.write(index, x_hat[0].permute(1, 2, 0).cpu().numpy())

        for _ in per_image(decode, range(self._num_images), device):
            pass

    def _room_for(self, run: Candidate, needed: set[Path]) -> DecodedMaps:
        reader = self._readers[run.level]
        shapes = [reader.shape(index) for index in range(self._num_images)]
        num_bytes = self._num_bytes(run)
        if run.folder in self._held:
            self._held.pop(run.folder)[0].discard()
        for folder in [folder for folder in self._held if folder not in needed]:
            if sum(size for _, size in self._held.values()) + num_bytes <= self._budget_bytes:
                break
            self._held.pop(folder)[0].discard()
        self._num_made += 1
        maps = DecodedMaps(self._folder / f"run_{self._num_made}", shapes, reader.value_dtype)
        self._held[run.folder] = (maps, num_bytes)
        return maps

    def _num_bytes(self, run: Candidate) -> int:
        reader = self._readers[run.level]
        shapes = (reader.shape(index) for index in range(self._num_images))
        return sum(int(np.prod(shape)) for shape in shapes) * reader.value_dtype.itemsize
