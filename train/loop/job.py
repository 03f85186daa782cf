"""What one run trains: its readers, codec, stream, and what its weights begin from."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from configs.errors import CacheError, ConfigError
from configs.schema.config import Config
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from data.reading.mixed_stream import MixedLevelStream
from data.reading.resident import resident_maps
from train.codecs.catalogue import build_codec
from train.codecs.level_codec import LevelCodec
from train.machine.distributed import World
from train.objective.catalogue import boxes_fingerprint, weights_fingerprint
from train.runs.checkpoint import BEST_NAME, read_run_info
from train.runs.run_folder import code_fingerprints, run_parent
from train.runs.run_record import RANDOM, RunRecord

log = logging.getLogger(__name__)

_BUILTIN_DIR = Path(__file__).parents[1] / "builtin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run to train: `level` is a number or `random`; `out` replaces the folder of the runs.

    `resume`: a run folder to go on with; `continues`: a finished one with fewer epochs, of which a
    copy goes on; `warm_start`: one whose best model to begin from.
    """

    train_cache: CacheFolder | Path
    val_cache: CacheFolder | Path
    level: int | str
    config: Config
    device: str
    out: Path | None = None
    resume: Path | None = None
    continues: Path | None = None
    warm_start: Path | None = None

    @property
    def parent(self) -> Path:
        """The folder in which this level's runs lie."""
        return run_parent(self.config, self.level, self.out)

    def settled(self) -> Job:
        """Return the job with the settings of its level, where the configuration has `levels`.

        Raises ConfigError if `levels` names one that there is not.
        """
        if not self.config.levels:
            return self
        if self.level == RANDOM:
            log.warning("levels: what single levels have of their own is not for --level random")
            return replace(self, config=self.config.model_copy(update={"levels": {}}))
        held = [each.index for each in CacheFolder.of(self.train_cache).manifest.levels]
        unknown = sorted(set(self.config.levels) - set(held))
        # A cache may hold but some of a detector's levels; the settings are of them all.
        if unknown and self.config.cache.levels is None:
            raise ConfigError(
                f"levels.{unknown[0]}: {self.train_cache} holds the levels "
                f"{', '.join(map(str, held))}: correct the number, or leave it out"
            )
        return replace(self, config=self.config.of_level(int(self.level), held))

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprints of both caches, and of own code.

        Also of a file of channel weights, and of the caches' boxes, where they count.
        """
        train, val = CacheFolder.of(self.train_cache), CacheFolder.of(self.val_cache)
        return {
            "train": train.manifest.fingerprint,
            "val": val.manifest.fingerprint,
            **weights_fingerprint(self.config.training),
            **boxes_fingerprint(self.config.training, train, val),
            **code_fingerprints(self.config),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Caches:
    """A run's open caches, one reader a level; level i of both lists is the codec's row i."""

    train: list[LevelReader]
    val: list[LevelReader]

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels' numbers, finest first."""
        return tuple(reader.info.index for reader in self.train)


@contextmanager
def open_caches(job: Job) -> Iterator[Caches]:
    """Open both caches.

    Raises CacheError if one is missing, incomplete, or the two are of different detectors;
    ConfigError if the settings do not fit them.
    """
    train_cache, val_cache = CacheFolder.of(job.train_cache), CacheFolder.of(job.val_cache)
    levels = (
        [level.index for level in train_cache.manifest.levels]
        if job.level == RANDOM
        else [int(job.level)]
    )
    with ExitStack() as stack:

        def opened(cache: CacheFolder) -> list[LevelReader]:
            verify = job.config.cache.verify
            return [
                stack.enter_context(LevelReader(cache, level, verify=verify)) for level in levels
            ]

        caches = Caches(train=opened(train_cache), val=opened(val_cache))
        refuse_unfit(caches, job.config)
        yield caches


def refuse_unfit(caches: Caches, config: Config) -> None:
    """Raise CacheError if the caches are of different detectors, ConfigError if settings differ."""
    for reader, val_reader in zip(caches.train, caches.val, strict=True):
        _check(reader, val_reader, config)


def make_codec(job: Job, caches: Caches) -> LevelCodec:
    """Return the untrained codec; its weights depend on `training.seed` alone."""
    torch.manual_seed(job.config.training.seed)
    statistics = [reader.statistics for reader in caches.train]
    codec = build_codec(job.config.model, caches.train[0].info.num_channels, len(statistics))
    codec.set_standardisation(
        np.stack([level.mean for level in statistics]),
        np.stack([level.variance for level in statistics]),
    )
    codec.to(job.device, memory_format=torch.channels_last)
    return codec


def stream_settings(job: Job) -> tuple[Hashable, ...]:
    """Return all that decides which bytes `make_stream` yields, and on which device.

    What a run does with a batch, cutmix and noise among it, is not in it: that is its own.
    """
    settings = job.config.training
    folders = [CacheFolder.of(cache).path for cache in (job.train_cache, job.val_cache)]
    weights = None if settings.level_weights is None else tuple(settings.level_weights)
    return (
        job.level, *map(str, folders), job.config.cache.verify, job.device, settings.batch_size,
        settings.crop, settings.seed, settings.shuffle, weights,
    )  # fmt: skip


def make_stream(job: Job, caches: Caches, world: World) -> LevelStream | MixedLevelStream:
    """Return the training batches, this rank's part of each."""
    settings, on_gpu = job.config.training, job.device.startswith("cuda")
    maps = resident_maps(caches.train, settings.resident, job.device)
    streams = [
        LevelStream(
            reader, batch_size=settings.batch_size, crop=settings.crop, seed=settings.seed,
            shuffle=settings.shuffle, keep=2 if on_gpu else 1, pin_memory=on_gpu,
            read_ahead=on_gpu, rank=world.rank, num_ranks=world.size, resident=resident,
        )
        for reader, resident in zip(caches.train, maps, strict=True)
    ]  # fmt: skip
    if job.level != RANDOM:
        return streams[0]
    weights = level_weights(job.config, len(streams))
    return MixedLevelStream(streams, weights=weights, seed=settings.seed)


def level_weights(config: Config, num_levels: int) -> Sequence[float]:
    """Return how often each level is drawn; raises ConfigError if the setting does not fit."""
    weights = config.training.level_weights
    if weights is None or num_levels == 1:
        return [1.0] * num_levels
    if len(weights) != num_levels or not sum(weights):
        raise ConfigError(
            f"training.level_weights: {len(weights)} weights, sum {sum(weights):g}: the cache has "
            f"{num_levels} levels: give one weight each, not all of them 0"
        )
    return weights


def _check(reader: LevelReader, val_reader: LevelReader, config: Config) -> None:
    mine, theirs = reader.manifest.detector, val_reader.manifest.detector
    for key in ("weights_sha256", "min_size", "max_size", "resize"):
        if mine[key] != theirs[key]:
            raise CacheError(
                f"the caches of {reader.manifest.split} and {val_reader.manifest.split} are of "
                f"different detectors ({key}: {mine[key]} and {theirs[key]}): "
                "extract both with the same settings"
            )
    val_reader.manifest.require_whole_maps()
    expected = config.model.fpn_channels_per_level
    if reader.info.num_channels != expected:
        raise ConfigError(
            f"model.fpn_channels_per_level is {expected}, level {reader.info.index} of the cache "
            f"has {reader.info.num_channels}: set it to that"
        )


def run_to_begin_from(job: Job, record: RunRecord | None = None) -> str | None:
    """Return the name of that run: the study's choice before `training.init_from`.

    A run that is gone on with, but stopped before its first checkpoint, begins as its `record`
    says that it did.
    """
    if job.warm_start is not None:
        return str(job.warm_start)
    if record is not None and record.warm_start is not None:
        return record.warm_start["run"]
    return job.config.training.init_from


def best_model_of(name: str, level: int | str) -> Path:
    """Return the checkpoint of a run folder, or of a codec of the package: `builtin:<name>`."""
    builtin = name.removeprefix("builtin:")
    if builtin == name:
        return Path(name) / BEST_NAME
    path = _BUILTIN_DIR / f"{builtin}_level_{level}.pth"
    if path.parent != _BUILTIN_DIR or not path.is_file():
        raise ConfigError(
            f"training.init_from {name}: no such codec of level {level} is in the package: there "
            "are builtin:scenes, for the built-in example's levels 0 to 4, and folders of runs"
        )
    return path


def refuse_other_kind(job: Job, caches: Caches) -> None:
    """Raise ConfigError unless that run has a model for the job's levels, of its architecture.

    Its features have to be of the same detector too: its standardisation goes on with its weights.
    """
    start = run_to_begin_from(job)
    if start is None:
        return
    info = read_run_info(best_model_of(start, job.level))
    detector = caches.train[0].manifest.detector["weights_sha256"]
    pairs = (
        ("of level", list(info.levels), list(caches.levels)),
        ("with model", info.config.model.architecture(), job.config.model.architecture()),
        ("of detector weights", info.detector_weights_sha256[:12], detector[:12]),
    )
    for what, its, wanted in pairs:
        if its != wanted:
            raise ConfigError(
                f"training.init_from {start}: a run {what} {_told(its, wanted)}, this one is "
                f"{what} {_told(wanted, its)}: name a run of the same kind"
            )


def _told(value: object, other: object) -> str:
    """Return the value in words; of a section only the keys in which the other differs."""
    if isinstance(value, dict) and isinstance(other, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if other.get(k) != v)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
