"""What is left to report where the split has no cache: the levels, and what training noted."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from analyze.facts.candidates import Candidate, learner_labels, newest_runs
from analyze.facts.results import AnalysisResult, LevelRow
from analyze.measure.find_runs import trained_runs
from analyze.measure.split import AnalysisRequest, level_facts, missing_cache
from configs.errors import CacheError
from data.cache.manifest import Manifest
from train.runs.checkpoint import BEST_NAME, read_run_info
from train.runs.metrics import METRICS_NAME, EpochMetrics, read_rows

_KNOWN_FROM = "train"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """A run's best epoch, on the val split that it was validated on; rates are estimated."""

    level: int
    lmbda: float
    learner: str
    """As of `LevelRow`."""
    epoch: int
    loss: float
    mse: float | None
    """In the features' own units squared; None where metrics.csv has lost the epoch."""
    bpp: float | None
    """Bits per feature position, from the likelihoods."""
    run: str


def trained_only(request: AnalysisRequest) -> tuple[AnalysisResult, tuple[TrainedRun, ...]]:
    """Return the levels of the train cache beside the missing one, and the best epochs of all runs.

    Raises CacheError where there is no train cache, or no run, either.
    """
    missing = missing_cache(request)
    beside = request.cache.with_name(_KNOWN_FROM)
    try:
        manifest = Manifest.load(beside)
    except CacheError:
        raise missing from None
    runs = newest_runs(
        trained_runs(request.checkpoints, request.run_dirs, manifest, beside).special
    )
    if not runs:
        raise missing
    labels = learner_labels(runs)
    result = AnalysisResult(
        dataset=manifest.dataset,
        split=request.split,
        detector=f"{manifest.detector['builder']} ({manifest.detector['weights_sha256'][:12]})",
        num_images=0,
        rows=tuple(
            LevelRow(facts=facts, measurement=None, alone=None) for facts in level_facts(manifest)
        ),
        original=None,
        combinations=(),
        missing=(
            f"{missing}: without it there are no bitstreams and no detection, only what training "
            "noted of each run's best epoch on its own val split",
        ),
    )
    return result, tuple(_best_epoch(run, labels[run.model]) for run in runs)


def _best_epoch(run: Candidate, learner: str) -> TrainedRun:
    epoch = read_run_info(run.folder / BEST_NAME).epoch
    mse, bpp = _validated(run.folder, epoch)
    return TrainedRun(
        level=run.level,
        lmbda=run.lmbda,
        learner=learner,
        epoch=epoch,
        loss=run.best_validation_loss,
        mse=mse,
        bpp=bpp,
        run=str(run.folder),
    )


def _validated(folder: Path, epoch: int) -> tuple[float | None, float | None]:
    names = [field.name for field in fields(EpochMetrics)]
    for row in read_rows(folder / METRICS_NAME, len(names)):
        found = dict(zip(names, row, strict=True))
        if found["epoch"] == str(epoch) and found["val_mse"]:
            return float(found["val_mse"]), float(found["val_bpp"])
    return None, None
