"""What the parts of an analysis share: the split, the runs, what was measured of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from analyze.detection.heads_on_levels import backbone_keys
from analyze.facts.candidates import Candidate, newest_runs
from analyze.facts.kept_results import Kept
from analyze.maps.replacements import Derivation, derivations
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.find_runs import TrainedRuns, left_out_lines, trained_runs, untrained_lines
from analyze.measure.level_rate_distortion import LevelStudy
from analyze.measure.split import AnalysisRequest, Split, open_split
from analyze.streams.unsent_levels import Overhead, overhead
from configs.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Workbench:
    """An open analysis. `detection` is None where no mAP can be had."""

    request: AnalysisRequest
    split: Split
    runs: tuple[Candidate, ...]
    """The newest of each model, level and lambda, of levels that the cache holds."""
    random_runs: tuple[Path, ...]
    decoded: DecodedLevels
    levels: LevelStudy
    detection: DetectionStudy | None
    derivations: dict[int, Derivation]
    """Levels that the decoder can compute from another one."""
    kept: Kept
    overhead: Overhead
    """What files hold besides the models' bits."""
    scratch: Path
    """A folder that is removed in the end."""


@contextmanager
def open_workbench(request: AnalysisRequest, scratch: Path, kept: Kept) -> Iterator[Workbench]:
    """Open everything; decoded maps lie under `scratch`, made if need be, while it is open.

    Raises CacheError without a cache of the split, if it is stale, or for runs trained on another
    detector's features. Anything else that is missing is a line of `split.missing`.
    """
    with ExitStack() as stack:
        split = stack.enter_context(open_split(request))
        found = trained_runs(request.checkpoints, request.run_dirs, split.manifest, request.cache)
        where = "the named runs" if request.run_dirs else str(request.checkpoints)
        split.missing.extend(
            untrained_lines(split.readers, found, where, request.split, request.options)
        )
        folder = Path(stack.enter_context(_scratch_folder(scratch)))
        decoded = DecodedLevels(folder, split.readers, split.num_images, request.device)
        derivable = _derivations(split)
        detection = None
        if split.evaluator is not None:
            detection = DetectionStudy(
                split, split.evaluator, decoded, kept, derivable, request.device
            )
        runs = _cached_levels_only(found, split)
        if request.run_dirs:
            split.missing.extend(left_out_lines(found.special, runs))
        yield Workbench(
            request=request,
            split=split,
            runs=runs,
            random_runs=found.random,
            decoded=decoded,
            levels=LevelStudy(split, decoded, kept, request.device),
            detection=detection,
            derivations=derivable,
            kept=kept,
            overhead=overhead(split.manifest, split.num_images),
            scratch=folder,
        )


def _cached_levels_only(found: TrainedRuns, split: Split) -> tuple[Candidate, ...]:
    return tuple(run for run in newest_runs(found.special) if run.level in split.readers)


def _derivations(split: Split) -> dict[int, Derivation]:
    if split.evaluator is None:
        return {}
    return derivations(split.evaluator.detector, backbone_keys(split.evaluator.detector))


def _scratch_folder(parent: Path) -> TemporaryDirectory[str]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(dir=parent, prefix=".decoded-")
    except OSError as error:
        raise ConfigError(
            f"{parent}: cannot be written ({error.strerror}): choose another --report"
        ) from error
