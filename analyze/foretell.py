"""analyze-levels --dry-run: what an analysis will take, from a few images; nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from analyze.allocation.search import most_verified
from analyze.analysis import models_of, runs_of
from analyze.facts.candidates import plan_of, runs_by_seed
from analyze.facts.kept_results import Kept
from analyze.facts.sent_parts import Part
from analyze.measure.decoded_levels import DecodedLevels, scratch_bytes
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.level_results import first_looked_at, wanted_combinations
from analyze.measure.split import open_split
from analyze.measure.stage_timing import Forecast, StageTiming
from analyze.request import AnalysisRequest, Wanted
from configs.errors import ConfigError
from data.cache.cache_folder import CacheFolder


def foretell(request: AnalysisRequest, wanted: Wanted, scratch: Path | str, kept: Kept) -> Forecast:
    """Time a few images through the stages of `analyze` with the same arguments.

    Raises CacheError without a cache of the split, and as `analyze`; ConfigError without a run.
    """
    models, there = models_of(request), _existing(Path(scratch))
    with open_split(
        CacheFolder(request.cache), request.split, request.config,
        device=models.device, limit=request.limit, classes=request.classes,
        options=request.options,
    ) as split:  # fmt: skip
        runs = runs_of(request, split, models)
        if not runs:
            raise ConfigError(
                f"{request.checkpoints}: no run whose coding could be timed: "
                f"run train-level --level all{request.options}"
            )
        detection = None
        if split.evaluator is not None:
            decoded = DecodedLevels(there, split.readers, split.num_images, models)
            detection = DetectionStudy(split, split.evaluator, decoded, kept, models.device)
        # What a run costs plays no part in which combinations are looked at.
        part_of = {str(run.folder): Part(kind="run", run=run) for run in runs}
        plan = plan_of(request.config, split.readers)
        combinations = first_looked_at(
            runs, part_of, wanted_combinations(split, runs, part_of, detection, plan)
        )
        return StageTiming(split, runs, models, kept).forecast(
            detection,
            combinations,
            num_more=(most_verified(wanted.target) * (1 + wanted.cross_fit) + 2 * wanted.per_image)
            * len(runs_by_seed(runs)),
            most_bytes=scratch_bytes(there, models.device),
            free_bytes=shutil.disk_usage(there).free,
        )


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
