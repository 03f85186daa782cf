"""Which images choose the allocation: all, those of the other folds, or another split's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from analyze.allocation.allocate import AllocationFinding, allocate, cross_fitted
from analyze.allocation.choice import MeasuredSplit, option_names
from analyze.allocation.folds import folds_of
from analyze.allocation.image_evidence import ImageEvidence, dropped_errors
from analyze.allocation.per_image_allocation import per_image_allocation
from analyze.allocation.search import Target
from analyze.facts.candidates import Candidate, seeds_of
from analyze.facts.kept_results import Kept
from analyze.facts.results import Combination, Found
from analyze.facts.sent_parts import MeasuredRun
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.level_rate_distortion import measured_run
from analyze.measure.split import Split, cache_beside, open_split
from analyze.request import AnalysisRequest, Wanted
from analyze.streams.unsent_levels import overhead
from data.cache.cache_folder import CacheFolder
from train.runs.loaded_models import LoadedModels


@dataclass(frozen=True, kw_only=True, slots=True)
class Choosing:
    """Who chooses for the images that are measured: with neither, they do for themselves."""

    split: Split | None = None
    """Another split."""
    folds: tuple[tuple[int, ...], ...] = ()
    """Places of the split's own images: for each fold those of all others choose."""


def split_of(
    request: AnalysisRequest, cache: CacheFolder, device: str, split: str | None = None
) -> AbstractContextManager[Split]:
    """Open a split's cache as a request says, its own split unless another is named."""
    return open_split(
        cache, split or request.split, request.config,
        device=device, limit=request.limit, classes=request.classes, options=request.options,
    )  # fmt: skip


@contextmanager
def open_choosing(
    request: AnalysisRequest, wanted: Wanted, cache: CacheFolder, device: str
) -> Iterator[Choosing]:
    """Open what chooses for the images of a cache, before anything is measured.

    Raises ConfigError for fewer images than folds, and as `cache_beside`.
    """
    if wanted.cross_fit:
        samples = cache.manifest.samples[: request.limit]
        yield Choosing(folds=folds_of([each.file for each in samples], wanted.cross_fit))
    elif wanted.choose_on:
        beside = cache_beside(cache, wanted.choose_on, request.options)
        with split_of(request, beside, device, wanted.choose_on) as other:
            yield Choosing(split=other)
    else:
        yield Choosing()


def measured_split(
    split: Split,
    candidates: Iterable[Candidate],
    decoded: DecodedLevels,
    models: LoadedModels,
    kept: Kept,
    *,
    image_by_image: bool = False,
    is_one_of_two: bool = False,
) -> MeasuredSplit:
    """Return a split with rate and distortion of each run; detection is run when it is asked.

    The log names what `is_one_of_two` by its split, too.
    """
    detection = None
    if split.evaluator is not None:
        detection = DetectionStudy(split, split.evaluator, decoded, kept, models.device)
    return MeasuredSplit(
        split=split,
        runs=measured_runs(
            split, candidates, decoded, models, kept,
            image_by_image=image_by_image, more=split.manifest.split if is_one_of_two else "",
        ),
        overhead=overhead(split.manifest, split.num_images),
        detection=detection,
    )  # fmt: skip


def measured_runs(
    split: Split,
    candidates: Iterable[Candidate],
    decoded: DecodedLevels,
    models: LoadedModels,
    kept: Kept,
    *,
    image_by_image: bool = False,
    more: str = "",
) -> tuple[MeasuredRun, ...]:
    """Return each run with its rate and distortion over the split; the log says `more` of each."""
    candidates = list(candidates)
    names, seeds = option_names(candidates), seeds_of(candidates)

    def name(run: Candidate) -> str:
        seed = seeds[run.folder]
        words = [f"level {run.level}", names[run.folder], "" if seed is None else f"seed {seed}"]
        return ", ".join(filter(None, [*words, more]))

    return tuple(
        measured_run(
            run, split, decoded, models, kept, image_by_image=image_by_image, name=name(run)
        )
        for run in candidates
    )


def find_allocations(
    choosing: Choosing,
    measured: MeasuredSplit,
    pyramids: Sequence[Combination],
    target: Target,
    models: LoadedModels,
    kept: Kept,
    scratch: Path,
    *,
    per_image: bool = False,
) -> Found[tuple[AllocationFinding, ...]]:
    """Return the allocation of each seed with its figures, and what is missing for one.

    There is one, unless there are runs that differ in the seed only. `pyramids` as of `allocate`;
    `per_image`: with what images reach that choose themselves, for which runs are measured image by
    image. Another split's decoded maps lie under `scratch`.
    """
    chosen_on = measured
    missing: list[str] = []
    if choosing.split is not None:
        folder = scratch / "choosing"
        folder.mkdir()
        other = choosing.split
        decoded = DecodedLevels(folder, other.readers, other.num_images, models)
        chosen_on = measured_split(
            other, [each.run for each in measured.runs], decoded, models, kept, is_one_of_two=True
        )
        missing += other.missing
    errors: Mapping[int, NDArray[Any]] = {}
    if choosing.folds or per_image:
        errors = dropped_errors(measured.split, kept, models.device)
    allocations = []
    for own, chooses in zip(measured.by_seed(), chosen_on.by_seed(), strict=True):
        found = allocate(own, chooses, pyramids, target)
        missing += found.missing
        if found.result is None:
            continue
        allocation = found.result
        if choosing.folds:
            fitted = cross_fitted(
                allocation, own, ImageEvidence(own, errors), choosing.folds, pyramids
            )
            allocation, missing = fitted.result, [*missing, *fitted.missing]
        if per_image:
            bits = allocation.combination.bits_per_pixel
            if target.kind == "bpp":
                bits = target.value
            assert bits is not None, "an allocation sends all levels"
            weights_of = chooses.split.manifest.split
            chosen = per_image_allocation(own, allocation.weighed, errors, bits, weights_of)
            missing += chosen.missing
            allocation = replace(allocation, per_image=chosen.result)
        allocations.append(allocation)
    return Found(tuple(allocations), tuple(missing))
