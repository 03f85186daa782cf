"""analyze-levels --dry-run: what an analysis will take, from a few images; nothing is written."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from analyze.allocation.choice import looked_at_to_choose
from analyze.allocation.search import most_verified
from analyze.analysis import found_runs, models_of, runs_of, shared_runs
from analyze.choosing import open_choosing, split_of
from analyze.facts.candidates import Candidate, plan_of, runs_by_seed
from analyze.facts.kept_results import Kept
from analyze.facts.sent_parts import Part
from analyze.fused.fused_rate_distortion import time_coding
from analyze.fused.fused_study import fused_due
from analyze.measure.decoded_levels import DecodedLevels, scratch_bytes
from analyze.measure.detection_study import DetectionStudy, Parts
from analyze.measure.level_results import first_looked_at, shared_pyramids, wanted_combinations
from analyze.measure.split import Split
from analyze.measure.stage_timing import Forecast, Stage, StageTiming, few_images
from analyze.request import AnalysisRequest, Wanted
from configs.errors import ConfigError
from data.cache.cache_folder import CacheFolder
from train.runs.loaded_models import LoadedModels


def foretell(request: AnalysisRequest, wanted: Wanted, scratch: Path | str, kept: Kept) -> Forecast:
    """Time a few images through the stages of `analyze` with the same arguments.

    Raises CacheError without a cache of the split, and as `analyze`; ConfigError without a run.
    """
    models, there = models_of(request), _existing(Path(scratch))
    cache = CacheFolder(request.cache)
    with (
        open_choosing(request, wanted, cache, models.device) as choosing,
        split_of(request, cache, models.device) as split,
    ):
        found = found_runs(request, split, models)
        runs = runs_of(request, split, models)
        if not runs and not found.fused:
            raise ConfigError(
                f"{request.checkpoints}: no run whose coding could be timed: "
                f"run train-level --level all{request.options}"
            )
        shared = shared_runs(found, split)
        # What a run costs plays no part in which combinations are looked at.
        part_of = {str(run.folder): Part(kind="run", run=run) for run in (*runs, *shared)}
        num_seeds = len(runs_by_seed(runs))
        num_own = 2 * wanted.per_image * num_seeds
        num_verified = most_verified(wanted.target) * (1 + wanted.cross_fit) * num_seeds + num_own

        def of(
            one: Split,
            coded: Sequence[Candidate],
            looked_at: Callable[[DetectionStudy | None], list[Parts]],
            num_more: int,
            more: Iterable[Stage] = (),
        ) -> Forecast:
            detection = None
            if one.evaluator is not None:
                decoded = DecodedLevels(there, one.readers, one.num_images, models)
                detection = DetectionStudy(one, one.evaluator, decoded, kept, models.device)
            return StageTiming(one, coded, models, kept).forecast(
                detection,
                looked_at(detection),
                num_more=num_more,
                more=more,
                most_bytes=scratch_bytes(there, models.device),
                free_bytes=shutil.disk_usage(there).free,
            )

        def own(detection: DetectionStudy | None) -> list[Parts]:
            plan = plan_of(request.config, split.readers)
            combined = wanted_combinations(split, runs, part_of, detection, plan)
            combined += shared_pyramids(split, shared, part_of, detection)
            return first_looked_at(runs, part_of, combined)

        def evidence(_: DetectionStudy | None) -> list[Parts]:
            return looked_at_to_choose(split, [part_of[str(run.folder)] for run in runs])

        fused = fused_due(found.fused, split, models, kept)
        coding = _coding_all_in_one(fused, split, models)
        # Each is one more pyramid; its levels are not sent with those of other runs.
        num_own += len(fused)
        if choosing.split is None:
            return of(split, [*runs, *shared], own, num_verified + len(fused), coding)
        chosen_on = of(choosing.split, runs, evidence, num_verified)
        own_forecast = of(split, [*runs, *shared], own, num_seeds + num_own, coding)
        return own_forecast.with_choosing(chosen_on, wanted.choose_on)


def _coding_all_in_one(
    folders: Sequence[Path], split: Split, models: LoadedModels
) -> tuple[Stage, ...]:
    """Return the stage of runs that code all levels in one, timed on one of them."""
    if not folders:
        return ()
    few = few_images(models.device, split.num_images)
    began = time.perf_counter()
    time_coding(folders[0], split, models, few)
    # The first image is coded once more, before the others.
    each = (time.perf_counter() - began) / (len(few) + 1)
    return (Stage(name="coding, all levels in one", times=len(folders), seconds_each=each),)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
