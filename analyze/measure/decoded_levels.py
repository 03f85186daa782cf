"""Decoded maps of many runs, on disk while there is room; decoded again if they had to go.

What they take does not grow with the split: maps of all images where these fit, else of some images
at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import torch

from analyze.facts.candidates import Candidate
from analyze.maps.equal_maps import WINDOW, Batch, batches, on_device, on_host
from analyze.maps.map_source import DecodedMaps
from analyze.measure.context_chain import ContextChain
from data.reading.level_reader import LevelReader
from data.system.threads import per_image
from train.runs.loaded_models import LoadedModels

_SHARE_OF_FREE_SPACE = 0.5
_MOST_BYTES_BESIDE_A_GPU = 16 * 2**30  # it decodes faster than a disk takes maps: memory holds them

_Held = tuple[Path, range]


def scratch_bytes(folder: Path, device: str) -> int:
    """Return the most that decoded maps may take in a folder."""
    share = int(shutil.disk_usage(folder).free * _SHARE_OF_FREE_SPACE)
    is_cpu = torch.device(device).type == "cpu"
    return share if is_cpu else min(share, _MOST_BYTES_BESIDE_A_GPU)


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
        self._images = range(num_images)
        self._models = models
        self._budget_bytes = scratch_bytes(folder, models.device)
        self._held: dict[_Held, tuple[DecodedMaps, int]] = {}
        self._num_made = 0

    def pieces(self, runs: Iterable[Candidate]) -> Iterator[range]:
        """Yield the split's images, as many at a time as there is room for the maps of these runs.

        A piece begins where a window of batches does, so that its maps are those of the whole.
        """
        levels = [run.level for run in {run.folder: run for run in runs}.values()]
        yield from pieces(self._readers, levels, self._images, self._budget_bytes)

    def of(self, runs: Iterable[Candidate], images: range | None = None) -> dict[Path, DecodedMaps]:
        """Return run folder -> decoded maps of `images`, a piece, or of all.

        They stay valid until the next call.
        """
        wanted = {run.folder: run for run in runs}
        whole = all((folder, self._images) in self._held for folder in wanted)
        images = self._images if images is None or whole else images
        if images != self._images:  # all room is for the piece
            for name in [name for name in self._held if name[1] != images]:
                self._held.pop(name)[0].discard()
        return {folder: self._maps(run, images, wanted) for folder, run in wanted.items()}

    def first_of(self, run: Candidate) -> DecodedMaps:
        """Return a run's decoded maps of the split's first images, `WINDOW` of them or all."""
        return self.of([run], self._images[:WINDOW])[run.folder]

    def new(self, run: Candidate) -> DecodedMaps | None:
        """Return empty maps for a run, to be filled by who decodes its bitstreams.

        None if there is no room for those of all images.
        """
        if map_bytes(self._readers[run.level], self._images) > self._budget_bytes:
            return None
        return self._room_for(run, self._images, {run.folder})

    def _maps(self, run: Candidate, images: range, needed: Collection[Path]) -> DecodedMaps:
        name = (run.folder, images)
        if name in self._held:
            entry = self._held.pop(name)
            self._held[name] = entry  # now the last to go
            return entry[0]
        maps = self._room_for(run, images, needed)
        self._decode(run, maps, images)
        return maps

    def _decode(self, run: Candidate, maps: DecodedMaps, images: range) -> None:
        """Fill `maps` by the codec's forward, which gives what its bitstreams decode to."""
        codec, device = self._models.codec(run.model_folder, level=run.level), self._models.device
        reader = self._readers[run.level]
        chain = ContextChain(run, self._readers, self._models)
        fused = self._models.info(run.model_folder).levels if run.is_fused else ()

        def decode(batch: Batch) -> None:
            if fused:
                all_maps = [on_device(self._readers[level], batch, device) for level in fused]
                x_hat = codec(all_maps)["x_hat"][fused.index(run.level)]
            else:
                x_hat = chain.x_hat(codec, batch)
            for index, values in zip(batch, on_host(x_hat, reader.value_dtype), strict=True):
                maps.write(index, values)

        for _ in per_image(decode, batches(reader, images, device), device):
            pass

    def _room_for(self, run: Candidate, images: range, needed: Collection[Path]) -> DecodedMaps:
        reader = self._readers[run.level]
        num_bytes = map_bytes(reader, images)
        if (run.folder, images) in self._held:
            self._held.pop((run.folder, images))[0].discard()
        for name in [name for name in self._held if name[0] not in needed]:
            if sum(size for _, size in self._held.values()) + num_bytes <= self._budget_bytes:
                break
            self._held.pop(name)[0].discard()
        self._num_made += 1
        maps = DecodedMaps(
            self._folder / f"run_{self._num_made}",
            [reader.shape(index) for index in images],
            reader.value_dtype,
            first=images.start,
        )
        self._held[run.folder, images] = (maps, num_bytes)
        return maps


def pieces(
    readers: Mapping[int, LevelReader], levels: Collection[int], images: range, most_bytes: int
) -> Iterator[range]:
    """Yield `images` in pieces for which a map of each of `levels` takes `most_bytes` together.

    A level that several runs code is named as often. At least a window of images is a piece.
    """
    first, size = images.start, 0
    for start in range(images.start, images.stop, WINDOW):
        window = range(start, min(start + WINDOW, images.stop))
        more = sum(map_bytes(readers[level], window) for level in levels)
        if size and size + more > most_bytes:
            yield range(first, start)
            first, size = start, 0
        size += more
    yield range(first, images.stop)


def map_bytes(reader: LevelReader, images: range) -> int:
    """Return the bytes of a level's maps of these images, decoded."""
    return reader.num_values(images) * reader.value_dtype.itemsize
