"""Pieces of an analysis that can be measured apart, by whoever: what they find is kept.

An analysis that follows finds it there, and measures what is missing: its report does not depend
on what was measured apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from analyze.analysis import (
    anchor_split,
    found_runs,
    models_of,
    newest_found,
    scratch_folder,
    shared_runs,
)
from analyze.anchors.anchor_split import AnchorSplit
from analyze.anchors.anchor_study import keep_point, unknown_points
from analyze.anchors.catalogue import find_anchor
from analyze.choosing import open_choosing, split_of
from analyze.facts.candidates import Candidate
from analyze.facts.kept_results import Kept
from analyze.facts.sent_parts import Part
from analyze.fused.fused_study import fused_due, study_fused
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.level_rate_distortion import is_measured, measured_run
from analyze.measure.split import Split, has_cache
from analyze.request import AnalysisRequest, Wanted
from analyze.streams.unsent_levels import overhead
from data.cache.cache_folder import CacheFolder
from train.runs.loaded_models import LoadedModels


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A split, and what the pieces of its analysis are measured with."""

    split: Split
    models: LoadedModels
    kept: Kept
    decoded: DecodedLevels
    detection: DetectionStudy | None
    scratch: Path

    @property
    def of_anchors(self) -> AnchorSplit:
        """Return the split as anchors are measured on it."""
        return anchor_split(self.split, self.detection, self.models.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedPiece:
    """Detection on the features as cached."""

    name: str = "detection on the features as cached"
    runs: tuple[Path, ...] = ()

    def is_kept(self, opened: Opened) -> bool:
        """Say whether there is nothing to measure."""
        return opened.detection is None or opened.detection.is_known({})

    def measure(self, opened: Opened) -> None:
        """Measure, and keep what is found."""
        if opened.detection is not None:
            opened.detection.prepare([{}])


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPiece:
    """A run's rate and error and, if it `is_seen` alone, what detection finds on its level."""

    run: Candidate
    is_seen: bool

    @property
    def name(self) -> str:
        """What the log calls it."""
        return str(self.run.folder)

    @property
    def runs(self) -> tuple[Path, ...]:
        """Return the folders of the runs whose models are needed."""
        return tuple(each.model_folder for each in self.run.whole)

    def is_kept(self, opened: Opened) -> bool:
        """Say whether there is nothing to measure."""
        return is_measured(self.run, opened.split, opened.models, opened.kept) and (
            opened.detection is None
            or not self.is_seen
            or opened.detection.is_known({self.run.level: Part(kind="run", run=self.run)})
        )

    def measure(self, opened: Opened) -> None:
        """Measure, and keep what is found."""
        found = measured_run(self.run, opened.split, opened.decoded, opened.models, opened.kept)
        if opened.detection is not None and self.is_seen:
            opened.detection.prepare([{self.run.level: found.part}])


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedPiece:
    """All levels by a run that codes them in one, and what detection finds on them."""

    folder: Path

    @property
    def name(self) -> str:
        """What the log calls it."""
        return str(self.folder)

    @property
    def runs(self) -> tuple[Path, ...]:
        """Return the folders of the runs whose models are needed."""
        return (self.folder,)

    def measure(self, opened: Opened) -> None:
        """Measure, and keep what is found."""
        sent = overhead(opened.split.manifest, opened.split.num_images)
        study_fused(
            [self.folder], opened.split, opened.decoded, sent, opened.detection, opened.models,
            opened.kept,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorPiece:
    """One rate point of an anchor: its place among them."""

    anchor: str
    place: int
    runs: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"anchor {self.anchor}, point {self.place + 1}"

    def measure(self, opened: Opened) -> None:
        """Measure, and keep what is found."""
        anchor = find_anchor(self.anchor)
        keep_point(anchor, self.place, opened.of_anchors, opened.kept, opened.scratch)


Piece = CachedPiece | RunPiece | FusedPiece | AnchorPiece


def pieces_left(
    request: AnalysisRequest, wanted: Wanted, scratch: Path, kept: Kept
) -> list[tuple[AnalysisRequest, Piece]]:
    """Return what an analysis would measure and is not kept yet, each with the split's request.

    Raises as `analyze`. Without a cache of the split there is nothing.
    """
    models, cache = models_of(request), CacheFolder(request.cache)
    if not has_cache(cache):
        return []
    with open_choosing(request, wanted, cache, models.device) as choosing:
        with _opened(request, scratch, kept) as opened:
            found = found_runs(request, opened.split, models)
            runs = newest_found(request, found, opened.split).result
            of_runs: list[CachedPiece | RunPiece] = [
                CachedPiece(),
                *(RunPiece(run=run, is_seen=True) for run in runs),
            ]
            shared = [RunPiece(run=run, is_seen=False) for run in shared_runs(found, opened.split)]
            left: list[tuple[AnalysisRequest, Piece]] = [
                (request, piece) for piece in (*of_runs, *shared) if not piece.is_kept(opened)
            ]
            fused = fused_due(found.fused, opened.split, models, kept)
            left += [(request, FusedPiece(folder=folder)) for folder in fused]
            left += [(request, piece) for piece in _anchors_left(wanted.anchors, opened)]
        if choosing.split is not None:
            cache = choosing.split.cache
            other = dataclasses.replace(request, cache=cache.path, split=wanted.choose_on)
            with _opened(other, scratch, kept) as opened:
                left += [(other, piece) for piece in of_runs if not piece.is_kept(opened)]
    return left


def measure_piece(
    request: AnalysisRequest, piece: Piece, kept: Path, scratch: Path
) -> Iterator[None]:
    """Measure a piece in a process of its own; its results lie in the folder `kept`."""
    with _opened(request, scratch, Kept(kept)) as opened:
        piece.measure(opened)
    yield


@contextmanager
def _opened(request: AnalysisRequest, scratch: Path, kept: Kept) -> Iterator[Opened]:
    models = models_of(request)
    with (
        split_of(request, CacheFolder(request.cache), models.device) as split,
        scratch_folder(scratch) as folder,
    ):
        decoded = DecodedLevels(Path(folder), split.readers, split.num_images, models)
        yield Opened(
            split=split,
            models=models,
            kept=kept,
            decoded=decoded,
            detection=None
            if split.evaluator is None
            else DetectionStudy(split, split.evaluator, decoded, kept, models.device),
            scratch=Path(folder),
        )


def _anchors_left(names: Sequence[str], opened: Opened) -> Iterator[AnchorPiece]:
    for name in names:
        for place in unknown_points(find_anchor(name), opened.of_anchors, opened.kept):
            yield AnchorPiece(anchor=name, place=place)
