"""What one run trains: its readers, codec, stream, and what its weights begin from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from configs.errors import CacheError, ConfigError
from configs.schema.config import Config
from configs.trusted_code import Trust, trusted_code
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import Manifest
from data.places.local_copies import LocalCopies
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from data.reading.mixed_stream import MixedLevelStream
from data.reading.resident import resident_maps
from train.codecs.catalogue import build_codec
from train.codecs.level_codec import LevelCodec
from train.context.beside import Beside, open_beside
from train.context.context_runs import context_models, measured_context
from train.context.pyramid_levels import (
    coded_levels,
    fused_config,
    levels_beside,
    refuse_fused_model,
)
from train.machine.distributed import World
from train.objective.catalogue import boxes_fingerprint, level_weights, weights_fingerprint
from train.runs.loaded_models import LoadedModels
from train.runs.run_folder import code_fingerprints, context_fingerprint, run_parent
from train.runs.run_record import FUSED, RANDOM, RunKeys

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run to train: `level` is a number, `random` or `fused`; `out` replaces the runs' folder.

    `resume`: a run folder to go on with; `continues`: a finished one with fewer epochs, of which a
    copy goes on; `warm_start`: one whose best model to begin from. `chain`: of those of one
    chain from coarse to fine, each is trained beside the run of the next coarser level in it.
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
    chain: Hashable = None
    trust_code: Trust = ()
    """Code that runs which it begins from or sees may name, beside what `config` names."""
    copies: LocalCopies = field(default_factory=LocalCopies)
    """Where copies of runs at URLs lie, which it may begin from or be written to."""

    @property
    def trusted(self) -> Trust:
        """All code that those runs may name."""
        return trusted_code(self.config, self.trust_code)

    @property
    def parent(self) -> Path:
        """The folder in which this level's runs lie."""
        return run_parent(self.config, self.level, self.out)

    def settled(self) -> Job:
        """Return the job with the settings of its level, where the configuration has `levels`.

        Of a job with `training.context` they say what its codec sees of it, of a fused pyramid the
        levels that it codes. Raises ConfigError if `levels` names one that there is not, or as
        `measured_context` and `measured_pyramid` do.
        """
        return self._of_its_level()._of_all_levels()._beside_its_context()

    def beside(self, run: Path) -> Job:
        """Return the job with that run as its context."""
        training = self.config.training.model_copy(update={"context": [str(run)]})
        return replace(self, config=self.config.model_copy(update={"training": training})).settled()

    def context_models(self) -> list[dict[RunKeys, str]]:
        """Return folder and model hash of each run of its context."""
        return context_models(self.config.training.context, self._models())

    def _models(self) -> LoadedModels:
        return LoadedModels(trust_code=self.trusted)

    def _of_all_levels(self) -> Job:
        """Return the job of a fused pyramid with the levels that it codes, others as they are."""
        if self.level == FUSED:
            manifest = CacheFolder.of(self.train_cache).manifest
            return replace(self, config=fused_config(self.config, manifest))
        refuse_fused_model(self.config)
        return self

    def _beside_its_context(self) -> Job:
        settings, model = self.config.training, self.config.model
        if not settings.context:
            if model.context is not None:
                raise ConfigError(
                    "model.context: is measured by train-level: remove it, and name runs with "
                    "--context"
                )
            if settings.context_on_the_fly and self.chain is None and not self.resume:
                raise ConfigError(
                    "--context-on-the-fly: there is no context to decode: name runs of the coarser "
                    "level with --context, or train all levels with --coarse-to-fine"
                )
            return self
        if self.level == RANDOM:
            raise ConfigError(
                "training.context: a codec for all levels sees none: name one --level"
            )
        manifest = CacheFolder.of(self.train_cache).manifest
        size = measured_context(manifest, int(self.level), settings.context, self._models())
        beside = model.model_copy(update={"context": size})
        return replace(self, config=self.config.model_copy(update={"model": beside}))

    def _of_its_level(self) -> Job:
        if not self.config.levels:
            return self
        if self.level in (RANDOM, FUSED):
            log.warning(
                "levels: what single levels have of their own is not for --level %s", self.level
            )
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

        Also of a file of channel weights, of the caches' boxes, and of the models of the context,
        where they count.
        """
        train, val = CacheFolder.of(self.train_cache), CacheFolder.of(self.val_cache)
        return {
            "train": train.manifest.fingerprint,
            "val": val.manifest.fingerprint,
            **weights_fingerprint(self.config.training),
            **boxes_fingerprint(self.config.training, train, val),
            **code_fingerprints(self.config),
            **context_fingerprint(self.context_models()),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Caches:
    """A run's open caches, one reader a level; level i of both lists is the codec's row i."""

    train: list[LevelReader]
    val: list[LevelReader]
    beside: Beside = field(default_factory=Beside)

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels' numbers, finest first."""
        return tuple(reader.info.index for reader in self.train)


@contextmanager
def open_caches(job: Job, between_batches: Callable[[], None] = lambda: None) -> Iterator[Caches]:
    """Open both caches, and what is read beside them; that is decoded now if it is not yet.

    `between_batches` may raise to stop that. Raises CacheError if a cache is missing, incomplete,
    or the two are of different detectors, or if there is no room for what is to be decoded;
    ConfigError if the settings do not fit them.
    """
    train_cache, val_cache = CacheFolder.of(job.train_cache), CacheFolder.of(job.val_cache)
    levels = _levels_of(job, train_cache.manifest)
    with ExitStack() as stack:

        def opened(cache: CacheFolder) -> list[LevelReader]:
            verify = job.config.cache.verify
            return [
                stack.enter_context(LevelReader(cache, level, verify=verify)) for level in levels
            ]

        caches = Caches(train=opened(train_cache), val=opened(val_cache))
        refuse_unfit(caches, job.config)
        if job.config.training.context:
            beside = open_beside(
                job.config.training, levels[0], train_cache, val_cache, device=job.device,
                trust_code=job.trusted, verify=job.config.cache.verify,
                between_batches=between_batches,
            )  # fmt: skip
            caches = replace(caches, beside=stack.enter_context(beside))
        if job.level == FUSED:
            caches = replace(caches, beside=levels_beside(caches.train, caches.val))
        yield caches


def _levels_of(job: Job, manifest: Manifest) -> list[int]:
    if job.level == RANDOM:
        return [level.index for level in manifest.levels]
    return coded_levels(manifest) if job.level == FUSED else [int(job.level)]


def refuse_unfit(caches: Caches, config: Config) -> None:
    """Raise CacheError if the caches are of different detectors, ConfigError if settings differ."""
    for reader, val_reader in zip(caches.train, caches.val, strict=True):
        _check(reader, val_reader, config)


def make_codec(job: Job, caches: Caches) -> LevelCodec:
    """Return the untrained codec; its weights depend on `training.seed` alone."""
    torch.manual_seed(job.config.training.seed)
    statistics = [reader.statistics for reader in caches.train]
    num_channels = max(reader.info.num_channels for reader in caches.train)
    codec = build_codec(job.config.model, num_channels, len(statistics))
    codec.set_standardisation(
        _stacked([level.mean for level in statistics], num_channels),
        _stacked([level.variance for level in statistics], num_channels),
    )
    if (coarser := caches.beside.coarser) is not None:
        codec.beside.set_standardisation(coarser.mean, coarser.variance)
    codec.to(job.device, memory_format=torch.channels_last)
    return codec


def _stacked(rows: Sequence[NDArray[Any]], length: int) -> NDArray[Any]:
    """Return one row for each level, float64 [S, length]; zeros where a level has fewer values."""
    return np.stack([np.pad(row, (0, length - len(row))) for row in rows])


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
        settings.context_on_the_fly, *(str(Path(run).resolve()) for run in settings.context),
    )  # fmt: skip


def make_stream(job: Job, caches: Caches, world: World) -> LevelStream | MixedLevelStream:
    """Return the training batches, this rank's part of each."""
    settings, on_gpu = job.config.training, job.device.startswith("cuda")
    # A fused pyramid is one stream: of the finest level, the others beside it.
    readers = caches.train[:1] if job.level == FUSED else caches.train
    maps = resident_maps(readers, settings.resident, job.device)
    streams = [
        LevelStream(
            reader, batch_size=settings.batch_size, crop=settings.crop, seed=settings.seed,
            shuffle=settings.shuffle, keep=2 if on_gpu else 1, pin_memory=on_gpu,
            read_ahead=on_gpu, rank=world.rank, num_ranks=world.size, resident=resident,
            beside=caches.beside.train,
        )
        for reader, resident in zip(readers, maps, strict=True)
    ]  # fmt: skip
    if job.level != RANDOM:
        return streams[0]
    weights = level_weights(job.config, len(streams))
    return MixedLevelStream(streams, weights=weights, seed=settings.seed)


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
    measured = config.model.pyramid is not None  # level by level, so that they may differ
    if reader.info.num_channels != expected and not measured:
        raise ConfigError(
            f"model.fpn_channels_per_level is {expected}, level {reader.info.index} of the cache "
            f"has {reader.info.num_channels}: set it to that"
        )
