"""What an analysis will cost: its stages, timed over a few images by what will do the work."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analyze.facts.candidates import Candidate, learner_labels
from analyze.facts.kept_results import Kept
from analyze.maps.equal_maps import WINDOW, Batch, batches, on_host
from analyze.maps.map_source import MapSource
from analyze.measure.context_chain import ContextChain
from analyze.measure.decoded_levels import map_bytes, pieces
from analyze.measure.detection_study import MOST_TOGETHER, DetectionStudy, Parts
from analyze.measure.level_rate_distortion import is_measured, measure_level
from analyze.measure.split import Split
from data.reading.level_reader import LevelReader
from data.system.threads import num_threads, per_image
from train.runs.loaded_models import LoadedModels

_MOST_TIMED = WINDOW // 2
_MOST_TIMED_BY_HEADS = 8
_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of the work."""

    name: str
    times: int
    """How often all images pass through it."""
    seconds_each: float
    """Mean of an image, each time."""
    num_images: int | None = None
    """None: as many as the forecast is of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Stages of one analysis, timed on this machine, and the room that it takes."""

    stages: tuple[Stage, ...]
    num_images: int
    scratch_bytes: int
    """The most that decoded maps take on the disk at a time."""
    free_bytes: int
    memory_bytes: int
    """The most that this process has held while the stages were timed, mapped files included."""
    gpu_bytes: int | None
    """The same of a GPU's memory; None on a CPU."""

    @property
    def seconds(self) -> float:
        """Expected duration of all stages."""
        return sum(self._seconds(each) for each in self.stages)

    def _seconds(self, stage: Stage) -> float:
        return stage.times * stage.seconds_each * (stage.num_images or self.num_images)

    def with_choosing(self, other: Forecast, split: str) -> Forecast:
        """Return it with what another split takes, whose images choose the allocation."""
        stages = (
            replace(each, name=f"{each.name}, {split}", num_images=other.num_images)
            for each in other.stages
        )
        return replace(
            self,
            stages=(*self.stages, *stages),
            scratch_bytes=self.scratch_bytes + other.scratch_bytes,
            memory_bytes=max(self.memory_bytes, other.memory_bytes),
            gpu_bytes=None if self.gpu_bytes is None else max(self.gpu_bytes, other.gpu_bytes or 0),
        )

    @property
    def fits(self) -> bool:
        """Whether there is room for the decoded maps."""
        return self.scratch_bytes <= self.free_bytes

    def table(self) -> str:
        """Return the forecast as text."""
        width = max([len("stage"), *(len(each.name) for each in self.stages)])
        lines = [f"{'stage':<{width}} {'images':>7} {'times':>5} {'ms each':>9} {'total':>8}"]
        for each in self.stages:
            lines.append(
                f"{each.name:<{width}} {each.num_images or self.num_images:>7} {each.times:>5} "
                f"{each.seconds_each * 1e3:>9.2f} {_duration(self._seconds(each)):>8}"
            )
        if not self.stages:
            lines = ["all that codecs and heads would compute was kept by an earlier analysis"]
        gpu = "" if self.gpu_bytes is None else f", {self.gpu_bytes / 1e9:.2f} GB of the GPU"
        verdict = "fits" if self.fits else "does not fit: make room, or name another --report"
        return "\n".join([
            *lines,
            f"about {_duration(self.seconds)}, and what anchors, mAP and the report take",
            f"scratch space: {self.scratch_bytes / 1e9:.3f} GB of {self.free_bytes / 1e9:.1f} GB "
            f"free: {verdict}",
            f"memory: {self.memory_bytes / 1e9:.2f} GB{gpu}, as measured",
        ])  # fmt: skip


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds:.1f} s"


class _InMemory:
    """Decoded maps of some images."""

    def __init__(self) -> None:
        self.maps: dict[int, NDArray[Any]] = {}

    def read(self, index: int) -> NDArray[Any]:
        return self.maps[index]


class StageTiming:
    """Times the stages of one analysis; what earlier ones have kept takes no time."""

    def __init__(
        self, split: Split, runs: Sequence[Candidate], models: LoadedModels, kept: Kept
    ) -> None:
        self._split = split
        self._images = range(split.num_images)
        self._models = models
        self._runs = runs
        self._due = [run for run in runs if not is_measured(run, split, models, kept)]

    def forecast(
        self,
        detection: DetectionStudy | None,
        combinations: Sequence[Parts],
        *,
        num_more: int,
        most_bytes: int,
        free_bytes: int,
        more: Iterable[Stage] = (),
    ) -> Forecast:
        """Time a few images; the caches are read, and nothing is written.

        `combinations` are all that detection is run on for certain, `num_more` those that may
        follow one by one. Decoded maps may take `most_bytes` of a disk with `free_bytes`. `more`
        are stages that somebody else has timed.
        """
        levels = [run.level for run in self._runs]
        sizes = [
            sum(map_bytes(self._split.readers[level], piece) for level in levels)
            for piece in pieces(self._split.readers, levels, self._images, most_bytes)
        ]
        is_whole = len(sizes) == 1
        stages = [self._checking(), *self._coding(), *more]
        if detection is not None:
            new = [parts for parts in combinations if not detection.is_known(parts)]
            stages += self._detecting(detection, new, combinations, num_more, is_whole)
        is_gpu = torch.device(self._models.device).type != "cpu"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT_BYTES
        return Forecast(
            stages=tuple(each for each in stages if each.times),
            num_images=len(self._images),
            # While levels are coded, whole ones are held as long as there is room.
            scratch_bytes=sizes[0] if is_whole else max(most_bytes, *sizes),
            free_bytes=free_bytes,
            memory_bytes=peak,
            gpu_bytes=torch.cuda.max_memory_reserved(self._models.device) if is_gpu else None,
        )

    def _checking(self) -> Stage:
        """Read the shards of the images that are timed, as a check of their bytes does."""
        seconds = 0.0
        for reader in self._split.readers.values():
            few = few_images(self._models.device, len(self._images))
            began = time.perf_counter()
            reader.require_whole(few)
            taken = time.perf_counter() - began
            read = np.isin(reader.shard_of, np.unique(reader.shard_of[few]))
            sizes = reader.shapes.prod(axis=1)
            seconds += taken * float(sizes[self._images].sum() / sizes[read].sum())
        return Stage(name="checking the cache", times=1, seconds_each=self._mean(seconds))

    def _coding(self) -> Iterable[Stage]:
        """Yield a stage for each level and learner, timed on one of its runs."""
        labels = learner_labels(self._runs)
        alike: dict[tuple[int, str], list[Candidate]] = {}
        for run in self._due:
            alike.setdefault((run.level, run.model), []).append(run)
        few = few_images(self._models.device, len(self._images))
        for (level, model), runs in sorted(alike.items()):
            folder = runs[0].model_folder
            codec, info = self._models.codec(folder, level=level), self._models.info(folder)
            reader = self._split.readers[level]
            began = time.perf_counter()
            chain = ContextChain(runs[0], self._split.readers, self._models)
            measure_level(codec, info, reader, few, None, str(runs[0].folder), chain=chain)
            # The first image is coded once more, before the others.
            seconds = self._of_all(time.perf_counter() - began, reader, [few[0], *few])
            label = f", {labels[model]}" if labels[model] else ""
            yield Stage(
                name=f"coding, level {level}{label}", times=len(runs),
                seconds_each=self._mean(seconds),
            )  # fmt: skip

    def _detecting(
        self,
        detection: DetectionStudy,
        new: Sequence[Parts],
        combinations: Sequence[Parts],
        num_more: int,
        is_whole: bool,
    ) -> Iterable[Stage]:
        """Yield the stages of detection on `new` combinations, and on later ones of the largest."""
        few = few_images(self._models.device, len(self._images), _MOST_TIMED_BY_HEADS)
        largest = max(combinations, key=len)
        used = {
            part.run.folder: part.run
            for parts in [*new, largest]
            for part in parts.values()
            if part.run
        }
        maps: dict[Path, MapSource] = {}
        seconds_of: dict[Path, float] = {}
        for folder, run in used.items():
            began = time.perf_counter()
            maps[folder] = self._decoded(run, few)
            taken = time.perf_counter() - began
            seconds_of[folder] = self._of_all(taken, self._split.readers[run.level], few)

        # What was coded just now need not be decoded again where all maps fit on the disk.
        there = {run.folder for run in self._due} if is_whole else set()
        again = sum(
            seconds_of[folder] * (1 if is_whole else -(-len(new) // MOST_TOGETHER))
            for folder in {part.run.folder for parts in new for part in parts.values() if part.run}
            if folder not in there
        )
        later = 0.0 if is_whole else sum(
            seconds_of[part.run.folder] for part in largest.values() if part.run
        )  # fmt: skip

        def heads(parts: Sequence[Parts]) -> float:
            began = time.perf_counter()
            for first in range(0, len(parts), MOST_TOGETHER):
                detection.results_of(parts[first : first + MOST_TOGETHER], maps, few)
            return (time.perf_counter() - began) / len(few)

        heads([largest])  # the first of all is not to be timed
        yield Stage(
            name="decoding again", times=int(again > 0), seconds_each=self._mean(again)
        )  # fmt: skip
        yield Stage(
            name=f"heads, {len(new)} combinations", times=int(bool(new)), seconds_each=heads(new)
        )
        yield Stage(
            name="later combinations, at most", times=num_more,
            seconds_each=heads([largest]) + self._mean(later),
        )  # fmt: skip

    def _decoded(self, run: Candidate, few: Sequence[int]) -> _InMemory:
        codec = self._models.codec(run.model_folder, level=run.level)
        device = self._models.device
        reader, held = self._split.readers[run.level], _InMemory()
        chain = ContextChain(run, self._split.readers, self._models)

        def decode(batch: Batch) -> None:
            x_hat = chain.x_hat(codec, batch)
            for index, values in zip(batch, on_host(x_hat, reader.value_dtype), strict=True):
                held.maps[index] = values.astype(reader.value_dtype)

        for _ in per_image(decode, batches(reader, few, device), device):
            pass
        return held

    def _of_all(self, seconds: float, reader: LevelReader, timed: Sequence[int]) -> float:
        """Return the time of all images, by positions: a few images need not have the mean size."""
        positions = reader.shapes[:, :2].prod(axis=1)
        return seconds * float(positions[self._images].sum() / positions[timed].sum())

    def _mean(self, seconds: float) -> float:
        return seconds / len(self._images)


def few_images(device: str, num_images: int, most: int = _MOST_TIMED) -> list[int]:
    """Choose images to time: a GPU gets neighbours, which have batches, a CPU some far apart.

    So many that all threads work at a time, and twice if `most` allows it.
    """
    if torch.device(device).type != "cpu":
        first = num_images // 2 // WINDOW * WINDOW
        return list(range(num_images)[first : first + most])
    number = min(most, 2 * num_threads(device), num_images)
    return sorted({round(place) for place in np.linspace(0, num_images - 1, number)})
