"""Specific against random: each model on each level, train level by test level."""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyze.facts.candidates import Candidate, codec_code, learner
from analyze.facts.kept_results import Kept
from analyze.facts.whole_pyramids import planned_runs
from analyze.maps.map_source import as_batch
from analyze.measure.model_cost import ModelCost, PyramidCost, model_cost, pyramid_cost
from configs.schema.training import TrainingConfig
from data.cache.cache_folder import CacheFolder
from data.cache.channel_statistics import ChannelStatistics
from data.reading.level_reader import LevelReader
from train.codecs.level_codec import LevelCodec
from train.objective.rate_distortion import rate_bits
from train.runs.checkpoint import RunInfo
from train.runs.loaded_models import LoadedModels
from train.runs.run_record import RunRecord

_LOG = logging.getLogger(__name__)

_METHOD = "matrix 3"
RANDOM_NAME = "random level"


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixModel:
    """One row: a trained model."""

    name: str
    """`level 3`, or `random level`."""
    folder: str
    levels: tuple[int, ...]
    """Those that it was trained for."""
    lmbda: float
    epochs: int
    """Done in training; the weights are those of the best one."""
    batch_size: int
    warm_start: bool
    """It began from another run's weights."""
    distortion: str
    """What its training minimised beside the rate; entries are of MSE all the same."""
    train_cache: str
    """Fingerprint of the cache that it was trained on."""
    cost: ModelCost


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixEntry:
    """A model on a level of the split; rates are estimated from the likelihoods."""

    mse: float
    """In the features' own units squared."""
    estimated_bpp: float
    """Bits per position of the level."""
    estimated_bits_per_pixel: float
    """Per pixel of the original images."""
    loss: float
    """MSE + the model's own lambda * bpp."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """`entries[model][level]` go with `models` and `levels`."""

    models: tuple[MatrixModel, ...]
    levels: tuple[int, ...]
    entries: tuple[tuple[MatrixEntry, ...], ...]
    specific: PyramidCost | None
    """Each level by its own model; None if one is missing."""
    random: PyramidCost | None
    """All levels by the model of random levels; None without it."""
    notes: tuple[str, ...]
    """What to mind: models that are missing, or that were not trained alike."""


def matrix_runs(
    runs: Sequence[Candidate], random_runs: Sequence[Path], models: LoadedModels
) -> tuple[Path, ...]:
    """Choose the rows: the runs of one model and one lambda, or of one configuration whose levels
    have their own, level by level, then the random one.

    It is the lambda at which most models are compared, one with a random-level run before one
    without; of several the one in the middle. `runs` hold one run for each model, lambda and level
    (`analyze.facts.candidates.newest_runs`); of random-level runs the newest counts. Empty without
    any. A run that sees the coarser level codes no other level's maps, and is none of them.
    """
    runs = [run for run in runs if run.context is None]
    special: dict[tuple[str, float], dict[int, Path]] = defaultdict(dict)
    for run in runs:
        special[run.model, run.lmbda][run.level] = run.folder
    for plan in dict.fromkeys(run.plan for run in runs if run.plan):
        for level, run in planned_runs(plan, runs).items():
            special[repr(plan), 0.0][level] = run.folder
    whole: dict[tuple[str, float], Path] = {}
    for folder in sorted(random_runs, key=lambda path: path.name):
        info = models.info(folder)
        whole[learner(info.config), info.lmbda] = folder
    kinds = sorted(special.keys() | whole.keys())
    if not kinds:
        return ()
    size = {kind: (kind in whole, len(special.get(kind, {}))) for kind in kinds}
    largest = [kind for kind in kinds if size[kind] == max(size.values())]
    chosen = largest[len(largest) // 2]
    rows = [folder for _, folder in sorted(special.get(chosen, {}).items())]
    return (*rows, whole[chosen]) if chosen in whole else tuple(rows)


def left_out(runs: Iterable[Candidate]) -> tuple[str, ...]:
    """Say of which levels runs are no rows, as they see the coarser level."""
    levels = sorted({run.level for run in runs if run.context is not None})
    if not levels:
        return ()
    which = ", ".join(map(str, levels))
    return (f"runs of level {which} that see the coarser level are left out: they code no other",)


def measure_matrix(
    folders: Sequence[Path],
    readers: Mapping[int, LevelReader],
    num_images: int,
    train_cache: CacheFolder | Path | str,
    models: LoadedModels,
    kept: Kept,
) -> Matrix:
    """Run each model on each level of a split, the first `num_images` images.

    On a level that a model was not trained for, the features are standardised by that level's own
    statistics in the train cache, as the random-level model does: so the matrix compares what the
    weights learnt, not scales. Raises CacheError without a train cache that holds all levels,
    ConfigError if a run is damaged.
    """
    levels = tuple(sorted(readers))
    trained, rows, strides = [], [], {}
    train_cache = CacheFolder.of(train_cache)
    with ExitStack() as stack:
        train = {level: stack.enter_context(LevelReader(train_cache, level)) for level in levels}
        for folder in folders:
            codec, info = models.codec(folder), models.info(folder)
            own = codec.mean.clone(), codec.std.clone()
            model = _model(folder, codec, info)
            _LOG.info("%s on all levels", model.name)
            row = []
            for level in levels:
                codec.mean.copy_(own[0])
                codec.std.copy_(own[1])
                _standardise(codec, info, level, train[level].statistics)
                row.append(_entry(codec, info, readers[level], train[level], num_images, kept))
            trained.append(model)
            rows.append(tuple(row))
            strides[model.name] = codec.stride
    model_of = {level: f"level {level}" for level in levels}
    names = {model.name for model in trained}
    costs = {model.name: model.cost for model in trained}
    return Matrix(
        models=tuple(trained),
        levels=levels,
        entries=tuple(rows),
        specific=(
            pyramid_cost(model_of, costs, strides, readers)
            if names >= set(model_of.values())
            else None
        ),
        random=(
            pyramid_cost(dict.fromkeys(levels, RANDOM_NAME), costs, strides, readers)
            if RANDOM_NAME in names
            else None
        ),
        notes=_notes(trained, levels),
    )


def _model(folder: Path, codec: LevelCodec, info: RunInfo) -> MatrixModel:
    record = RunRecord.load(folder)
    return MatrixModel(
        name=RANDOM_NAME if len(info.levels) > 1 else f"level {info.level}",
        folder=str(folder),
        levels=info.levels,
        lmbda=info.lmbda,
        epochs=record.epochs,
        batch_size=info.config.training.batch_size,
        warm_start=record.warm_start is not None,
        distortion=_distortion(info.config.training),
        train_cache=info.cache_fingerprint,
        cost=model_cost(codec),
    )


def _distortion(settings: TrainingConfig) -> str:
    if settings.distortion == "channel_weighted":
        return f"{settings.learnt_by} by {settings.channel_weights}"
    return settings.learnt_by


def _standardise(
    codec: LevelCodec, info: RunInfo, level: int, statistics: ChannelStatistics
) -> None:
    if level in info.levels:
        codec.use_level(info.levels.index(level))
        return
    codec.use_level(0)
    num_rows = len(codec.mean)
    codec.set_standardisation(
        np.repeat(statistics.mean[None], num_rows, axis=0),
        np.repeat(statistics.variance[None], num_rows, axis=0),
    )


def _entry(
    codec: LevelCodec,
    info: RunInfo,
    reader: LevelReader,
    train: LevelReader,
    num_images: int,
    kept: Kept,
) -> MatrixEntry:
    key: dict[str, Any] = {
        "method": _METHOD,
        "model": info.model_sha256,
        # The loss is of it, and the model's hash does not cover it.
        "lambda": info.lmbda,
        "level": reader.info.index,
        "cache": reader.content_id,
        # The level's statistics come from there.
        "train": train.content_id,
        "images": num_images,
        "device": codec.mean.device.type,
    }
    if code := codec_code(info.config.model):
        key["code"] = code
    if (found := kept.get(key)) is not None:
        return MatrixEntry(**found.facts)
    entry = _measure(codec, reader, num_images, info.lmbda)
    kept.put(key, dataclasses.asdict(entry), {})
    return entry


@torch.inference_mode()
def _measure(codec: LevelCodec, reader: LevelReader, num_images: int, lmbda: float) -> MatrixEntry:
    squared_error = bits = 0.0
    positions = pixels = 0
    for index in range(num_images):
        maps = as_batch(reader.sample(index)).to(codec.mean.device)
        output = codec(maps)
        squared_error += float((output["x_hat"] - maps).double().square().sum())
        bits += float(rate_bits(output["likelihoods"]).sum())
        positions += maps.shape[-2] * maps.shape[-1]
        sample = reader.manifest.samples[index]
        pixels += sample.height * sample.width
    mse = squared_error / (positions * reader.info.num_channels)
    return MatrixEntry(
        mse=mse,
        estimated_bpp=bits / positions,
        estimated_bits_per_pixel=bits / pixels,
        loss=mse + lmbda * bits / positions,
    )


def _notes(models: Sequence[MatrixModel], levels: Sequence[int]) -> tuple[str, ...]:
    notes = []
    names = {model.name for model in models}
    for level in levels:
        if f"level {level}" not in names:
            notes.append(f"no model of level {level}: run train-level --level {level}")
    if RANDOM_NAME not in names:
        notes.append("no model of random levels: run train-level --level random")
    for what, values in (
        ("lambda", {model.name: f"{model.lmbda:.3g}" for model in models}),
        # With one train cache, epochs and batch size give the number of steps.
        ("steps", {m.name: f"{m.epochs} epochs of batches of {m.batch_size}" for m in models}),
        ("start", {m.name: "from another run" if m.warm_start else "anew" for m in models}),
        ("distortion", {model.name: model.distortion for model in models}),
        ("train cache", {model.name: model.train_cache[:12] for model in models}),
    ):
        if len(set(values.values())) > 1:
            each = ", ".join(f"{name}: {value}" for name, value in values.items())
            notes.append(f"not trained alike in {what}: {each}")
    return tuple(notes)
