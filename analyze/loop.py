"""Measure every run against one split's cache, then detection on what the codecs decoded."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from analyze.decoded_maps import DecodedMaps
from analyze.detection import backbone_keys
from analyze.evaluation import SplitEvaluator
from analyze.level_rd import measure_level
from analyze.results import AnalysisResult, Combination, LevelFacts, LevelRow, Measurement
from analyze.runs import Candidate, Pyramid, newest_runs, pyramids
from configs.errors import CacheError, ConfigError
from configs.schema import Config
from data.annotations import read_annotations
from data.folder_state import ANNOTATIONS_NAME
from data.manifest import FILE_NAME, Manifest
from data.reader import LevelReader
from extract.detector import label_to_category, load_detector, num_labels
from extract.freshness import refuse_other_detector, refuse_stale_cache
from train.checkpoint import BEST_NAME, load_codec, read_run_info
from train.run_folder import find_runs

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisRequest:
    """What to analyse. `options` is what commands in messages need to reach the same data."""

    cache: Path
    split: str
    checkpoints: Path
    run_dirs: tuple[Path, ...]
    config: Config
    device: str
    limit: int | None
    options: str


def analyze(request: AnalysisRequest, scratch: Path) -> AnalysisResult:
    """Analyse; decoded maps lie under `scratch`, made if need be, while it runs.

    Raises CacheError without a cache of the split, if it is stale, or for runs trained on another
    detector's features. Anything else that is missing is a line of the result.
    """
    if not (request.cache / FILE_NAME).is_file():
        raise CacheError(
            f"{request.cache}: no cache of the split {request.split!r}: "
            f"run extract-features --split {request.split}{request.options}"
        )
    manifest = Manifest.load(request.cache)
    refuse_stale_cache(request.cache, request.split, request.config)
    manifest.require_whole_maps()
    num_images = min(len(manifest.samples), request.limit or len(manifest.samples))
    with ExitStack() as stack:
        readers = {
            info.index: stack.enter_context(
                LevelReader(request.cache, info.index, verify=request.config.cache.verify)
            )
            for info in manifest.levels
        }
        candidates = newest_runs(_candidates(request, manifest))
        missing = _untrained(readers, candidates, request)
        evaluator = _evaluator(request, readers, range(num_images), missing)
        original = evaluator.accuracy({}) if evaluator else None
        folder = stack.enter_context(_scratch_folder(scratch))
        rows, combinations = _measure_runs(
            candidates, readers, evaluator, num_images, request.device, Path(folder)
        )
    return AnalysisResult(
        dataset=manifest.dataset,
        split=manifest.split,
        detector=f"{manifest.detector['builder']} ({manifest.detector['weights_sha256'][:12]})",
        num_images=num_images,
        rows=_with_untrained(rows, level_facts(manifest)),
        original=original,
        combinations=tuple(combinations),
        missing=tuple(missing),
    )


def _scratch_folder(parent: Path) -> TemporaryDirectory[str]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(dir=parent, prefix=".decoded-")
    except OSError as error:
        raise ConfigError(
            f"{parent}: cannot be written ({error.strerror}): choose another --report"
        ) from error


def level_facts(manifest: Manifest) -> list[LevelFacts]:
    """Return every cached level's facts, finest first; resolution is that of the fullest bucket."""
    fullest = max(manifest.buckets, key=lambda bucket: bucket.num_samples)
    elements: Counter[int] = Counter()
    for bucket in manifest.buckets:
        for info in manifest.levels:
            height, width = bucket.level_shapes[info.index]
            elements[info.index] += bucket.num_samples * height * width * info.num_channels
    return [
        LevelFacts(
            level=info.index,
            key=info.key,
            stride_px=info.stride_px,
            num_channels=info.num_channels,
            resolution_hw=fullest.level_shapes[info.index],
            share=elements[info.index] / elements.total(),
        )
        for info in manifest.levels
    ]


def _candidates(request: AnalysisRequest, manifest: Manifest) -> list[Candidate]:
    """Read every run's facts; refuse runs whose features came from another detector."""
    found = []
    for folder in _run_folders(request):
        run = read_run_info(folder / BEST_NAME)
        made_by = manifest.detector["weights_sha256"]
        if run.detector_weights_sha256 != made_by:
            raise CacheError(
                f"{folder}: was trained on features of detector weights "
                f"{run.detector_weights_sha256[:12]}, the cache {request.cache} is of "
                f"{made_by[:12]}: name the runs that belong to this cache, or extract it anew"
            )
        found.append(
            Candidate(
                folder=folder,
                level=run.level,
                lmbda=run.lmbda,
                best_validation_loss=run.best_validation_loss,
            )
        )
    return found


def _run_folders(request: AnalysisRequest) -> list[Path]:
    if not request.run_dirs:
        return [run.folder for run in find_runs(request.checkpoints)]
    for folder in request.run_dirs:
        if not (folder / BEST_NAME).is_file():
            raise ConfigError(
                f"{folder}: no run: it holds no {BEST_NAME}: "
                "name folders such as checkpoints/fpn_..._level_0/run_..."
            )
    return list(request.run_dirs)


def _untrained(
    readers: dict[int, LevelReader], candidates: Sequence[Candidate], request: AnalysisRequest
) -> list[str]:
    trained = {candidate.level for candidate in candidates}
    where = "the named runs" if request.run_dirs else str(request.checkpoints)
    return [
        f"level {level} has no trained run in {where}: "
        f"run train-level --level {level}{request.options}"
        for level in sorted(readers)
        if level not in trained
    ] + [
        f"level {level} was trained, but this cache does not hold it: "
        f"run extract-features --split {request.split}{request.options} with that level"
        for level in sorted(trained - set(readers))
    ]


def _evaluator(
    request: AnalysisRequest,
    readers: dict[int, LevelReader],
    indices: range,
    missing: list[str],
) -> SplitEvaluator | None:
    """Return what runs detection, or None with the reason added to `missing`."""
    manifest = next(iter(readers.values())).manifest
    boxes = request.cache / ANNOTATIONS_NAME
    try:
        images = read_annotations(boxes, request.split)
    except CacheError as error:
        missing.append(f"no mAP: {error}")
        return None
    if not images.categories:
        missing.append(
            f"no mAP: the split {request.split!r} was extracted without boxes: name its "
            "annotations in the configuration and run extract-features again"
        )
        return None
    try:
        detector = load_detector(request.config.detector, request.device)
        labels = label_to_category(detector.classes, num_labels(detector.model), images.categories)
    except ConfigError as error:
        missing.append(f"no mAP: the detector cannot be built: {error}")
        return None
    # Weights that had to be downloaded first could not be compared without that.
    refuse_other_detector(manifest, request.cache, detector, request.config.detector)
    held = {reader.info.key for reader in readers.values()}
    absent = [key for key in backbone_keys(detector.model) if key not in held]
    if absent:
        missing.append(
            f"no mAP: the heads need the levels {', '.join(absent)}, which this cache does not "
            f"hold: run extract-features --split {request.split}{request.options} for all levels"
        )
        return None
    return SplitEvaluator(
        detector=detector.model,
        readers=readers,
        indices=indices,
        annotations=boxes,
        label_to_category=labels,
    )


def _measure_runs(
    candidates: Sequence[Candidate],
    readers: dict[int, LevelReader],
    evaluator: SplitEvaluator | None,
    num_images: int,
    device: str,
    folder: Path,
) -> tuple[list[LevelRow], list[Combination]]:
    """Measure run by run; decoded maps are kept only until the last pyramid that needs them."""
    wanted = pyramids(candidates, sorted(readers))
    facts = {each.level: each for each in level_facts(next(iter(readers.values())).manifest)}
    rows: list[LevelRow] = []
    combinations: list[Combination] = []
    decoded: dict[Path, DecodedMaps] = {}
    bits: dict[Path, float] = {}
    for number, candidate in enumerate(each for each in candidates if each.level in readers):
        maps, measurement = _measure(
            candidate, readers[candidate.level], num_images, device, folder / f"run_{number}"
        )
        alone = evaluator.accuracy({candidate.level: maps}) if evaluator else None
        rows.append(LevelRow(facts=facts[candidate.level], measurement=measurement, alone=alone))
        decoded[candidate.folder], bits[candidate.folder] = maps, measurement.bits_per_pixel
        for pyramid in [each for each in wanted if _folders(each) <= decoded.keys()]:
            wanted.remove(pyramid)
            combinations.append(_combine(pyramid, decoded, bits, evaluator))
        needed = {folder for pyramid in wanted for folder in _folders(pyramid)}
        for spent in [run for run in decoded if run not in needed]:
            decoded.pop(spent).discard()
    return rows, combinations


def _measure(
    candidate: Candidate, reader: LevelReader, num_images: int, device: str, file: Path
) -> tuple[DecodedMaps, Measurement]:
    codec, run = load_codec(candidate.folder / BEST_NAME, device)
    shapes = [reader.shape(index) for index in range(num_images)]
    maps = DecodedMaps(file, shapes, np.dtype(reader.manifest.dtype))
    name = f"level {candidate.level}, lambda {candidate.lmbda:.3g}"
    indices = tqdm(range(num_images), desc=name, unit="image", disable=None, leave=False)
    measurement = measure_level(codec, run, reader, indices, maps, str(candidate.folder))
    _LOG.info(
        "%s: MSE %.4g, estimated %.4g and real %.4g bits per position",
        name, measurement.mse, measurement.estimated_bpp, measurement.real_bpp,
    )  # fmt: skip
    return maps, measurement


def _folders(pyramid: Pyramid) -> set[Path]:
    return {run.folder for run in pyramid.runs.values()}


def _combine(
    pyramid: Pyramid,
    decoded: dict[Path, DecodedMaps],
    bits: dict[Path, float],
    evaluator: SplitEvaluator | None,
) -> Combination:
    maps = {level: decoded[run.folder] for level, run in pyramid.runs.items()}
    return Combination(
        name=pyramid.name,
        runs={level: str(run.folder) for level, run in pyramid.runs.items()},
        bits_per_pixel=sum(bits[run.folder] for run in pyramid.runs.values()),
        accuracy=evaluator.accuracy(maps) if evaluator else None,
    )


def _with_untrained(rows: Sequence[LevelRow], facts: Sequence[LevelFacts]) -> tuple[LevelRow, ...]:
    """Order by level then lambda, with an empty line for a level that has no run."""
    trained = {row.facts.level for row in rows}
    untrained = [each for each in facts if each.level not in trained]
    empty = [LevelRow(facts=each, measurement=None, alone=None) for each in untrained]
    return tuple(sorted([*rows, *empty], key=lambda row: row.facts.level))
