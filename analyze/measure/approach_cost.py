"""What whole pyramids of trained models take: to keep, to run, and to train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from analyze.facts.candidates import Candidate
from analyze.facts.results import Combination
from analyze.measure.model_cost import ModelCost, fused_cost, model_cost, positions_per_image
from analyze.measure.split import Split, has_cache
from configs.errors import CacheError, ConfigError
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from train.codecs.fused_pyramid import FusedPyramid
from train.context.decoded_plan import decoded_bytes
from train.runs.loaded_models import LoadedModels
from train.runs.run_record import RunRecord

_TRAINING_SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True, slots=True)
class ApproachCost:
    """A whole pyramid by one model or several. MACs are the mean over the images of a split."""

    models: int
    parameters: int
    weight_bytes: int
    """Weights and standardisation, as they are stored."""
    decoded_bytes: int
    """Of what coarser levels' models decode of the train and val split, which training reads."""
    encoder_macs_per_image: float
    """With making what a finer level sees, as the encoder has to."""
    decoder_macs_per_image: float
    training_seconds: float | None
    """Of all its runs, as they noted it; None where one has no record."""


def costs_of_combinations(
    combinations: Mapping[str, Combination],
    candidates: Iterable[Candidate],
    split: Split,
    models: LoadedModels,
    known: Mapping[str, ApproachCost],
) -> dict[str, ApproachCost]:
    """Return name -> what a whole pyramid of some of the candidates takes.

    `known` is `Combination.name` -> cost of those of other runs.
    """
    by_name = {str(run.folder): run for run in candidates}
    costs = {}
    for name, each in combinations.items():
        if each.name in known:
            costs[name] = known[each.name]
            continue
        runs = {level: by_name[part] for level, part in each.parts.items() if part in by_name}
        costs[name] = approach_cost(runs, split.readers, split.cache, models)
    return costs


def approach_cost(
    runs: Mapping[int, Candidate],
    readers: Mapping[int, LevelReader],
    cache: CacheFolder,
    models: LoadedModels,
) -> ApproachCost:
    """Return the cost of a pyramid: level -> its run; a level without one costs nothing.

    Each model is run once, on a small map. `cache` is one of those of the study.
    """
    codecs = {
        folder: models.codec(folder) for folder in {run.model_folder for run in runs.values()}
    }
    costs = {folder: model_cost(codec) for folder, codec in codecs.items()}
    seen = {run.context.level for run in runs.values() if run.context is not None}
    encoder = decoder = 0.0
    for level, run in runs.items():
        folder = run.model_folder
        positions = positions_per_image(readers[level], codecs[folder].stride)
        encoder += positions * _encoder_macs(run, costs[folder], is_seen=level in seen)
        decoder += positions * costs[folder].decoder_macs_per_position
    return ApproachCost(
        models=len(codecs),
        parameters=sum(each.parameters for each in costs.values()),
        weight_bytes=sum(each.storage_bytes for each in costs.values()),
        decoded_bytes=_decoded_bytes(runs.values(), cache, models),
        encoder_macs_per_image=encoder,
        decoder_macs_per_image=decoder,
        training_seconds=_training_seconds(codecs),
    )


def cost_of_fused(folder: Path, codec: FusedPyramid, finest: LevelReader) -> ApproachCost:
    """Return the cost of a pyramid by a run of all levels in one; `finest` is the finest of them.

    Its codec is run once, on small maps.
    """
    cost, positions = fused_cost(codec), positions_per_image(finest, codec.stride)
    return ApproachCost(
        models=1,
        parameters=cost.parameters,
        weight_bytes=cost.storage_bytes,
        decoded_bytes=0,
        encoder_macs_per_image=positions * cost.encoder_macs_per_position,
        decoder_macs_per_image=positions * cost.decoder_macs_per_position,
        training_seconds=_training_seconds([folder]),
    )


def _encoder_macs(run: Candidate, cost: ModelCost, *, is_seen: bool) -> float:
    """Return those of a position; what is predicted is made as the decoder makes it."""
    if run.is_predicted:
        return cost.decoder_macs_per_position if is_seen else 0.0
    return cost.seen_macs_per_position if is_seen else cost.encoder_macs_per_position


def _decoded_bytes(runs: Iterable[Candidate], cache: CacheFolder, models: LoadedModels) -> int:
    """Return what the decoded caches take that training read, whether or not they are there now."""
    needed = {
        run.context.model_folder: run.context.level
        for run in runs
        if run.context is not None
        and not models.info(run.model_folder).config.training.context_on_the_fly
    }
    total = 0
    for split in _TRAINING_SPLITS:
        beside = CacheFolder(cache.path.with_name(split))
        if not has_cache(beside):
            continue
        for folder, level in needed.items():
            try:
                model = models.info(folder).config.model
                total += decoded_bytes(beside.manifest, level, model)
            except CacheError:
                continue  # a cache of crops, or of other levels: it was trained from another one
    return total


def _training_seconds(folders: Iterable[Path]) -> float | None:
    try:
        return sum(RunRecord.load(folder).seconds for folder in folders)
    except ConfigError:
        return None
