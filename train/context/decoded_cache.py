"""What the frozen codec of a run decodes of a split, stored once, and read beside a finer level."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from configs.errors import CacheError, ConfigError
from configs.log_setup import bar_interval_s
from data.cache.cache_folder import CacheFolder
from data.cache.channel_statistics import statistics_path
from data.cache.commit_log import CommitLog
from data.cache.manifest import Manifest
from data.cache.plan import samples_by_bucket, units_of
from data.cache.units_due import levels_due
from data.reading.companion import Companion
from data.reading.level_reader import LevelReader, Verify
from data.reading.whole_maps import whole_map_batches
from data.writing.decoded import images_beside, within_range
from data.writing.settle import settle_cache
from data.writing.writer import CacheWriter
from train.codecs.layers.context_path import Context
from train.codecs.level_codec import LevelCodec
from train.context.context_runs import measured_context, runs_beside
from train.context.decoded_plan import (
    PARTS,
    bytes_there,
    decoded_bytes,
    decoded_folder,
    decoded_plans,
    in_words,
)
from train.runs.loaded_models import LoadedModels

log = logging.getLogger(__name__)

_MAPS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedCache:
    """Two caches of one split's images: a level's decoded maps, and its trail."""

    maps: CacheFolder
    trail: CacheFolder


def decoded_cache(
    run: str | Path,
    source: CacheFolder,
    *,
    models: LoadedModels,
    verify: Verify = "auto",
    between_batches: Callable[[], None] = lambda: None,
) -> DecodedCache:
    """Return what a run's best model decodes of a split's cache, made now as far as it is not yet.

    It lies in `<features>/decoded/<hash of the model>/<split>`. One that was begun is gone on with;
    one that another process is making is waited for; one of what the split's cache held before is
    replaced. Where the run was trained beside others, theirs come first. `between_batches` may
    raise to stop. Raises CacheError if the cache lacks the level, holds crops or is damaged, or if
    the disk has no room; ConfigError if a run is not found.
    """
    info = models.info(run)
    folder = decoded_folder(source, info.model_sha256)
    of = hashlib.sha256(source.content_id.encode()).hexdigest()[:16]
    beside = ", ".join(info.context) or "nothing"
    origin = f"model {info.model_sha256} beside {beside} of cache {of}"
    if (there := _finished(folder, info.level, origin)) is not None:
        return there
    plans = decoded_plans(source.manifest, info.level, info.config.model, origin)
    with ExitStack() as stack:
        reader = stack.enter_context(LevelReader(source, info.level, verify=verify))
        companions: tuple[Companion, ...] = ()
        if info.context:
            companions = stack.enter_context(
                open_companions(
                    runs_beside(Path(run), models), source, level=info.level, models=models,
                    verify=verify, between_batches=between_batches,
                )
            )  # fmt: skip
        _require_room(run, folder, decoded_bytes(source.manifest, info.level, info.config.model))
        try:
            parts = [
                _begun(folder / part, plan, source.path, stack)
                for part, plan in zip(PARTS, plans, strict=True)
            ]
            _decode(models.codec(run), reader, companions, parts, between_batches)
        except OSError as error:
            raise CacheError(
                f"{error.filename or folder}: cannot be read or written "
                f"({error.strerror or error}): mend it and run the same command again, it goes on "
                "where it stopped"
            ) from error
    return DecodedCache(**{part: CacheFolder(folder / part) for part in PARTS})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One of the two caches under way; `due` are the units to be written."""

    folder: Path
    plan: Manifest
    writer: CacheWriter
    due: set[int]


@contextmanager
def open_companions(
    runs: Sequence[str],
    source: CacheFolder,
    *,
    level: int,
    models: LoadedModels,
    verify: Verify = "auto",
    between_batches: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Companion, Companion]]:
    """Open what is read beside a level: decoded maps of the next coarser one, and their trail.

    Of several runs one is drawn for each sample. Makes the decoded caches, and raises, as
    `decoded_cache` does; ConfigError if the runs do not fit the level.
    """
    size = measured_context(source.manifest, level, runs, models)
    caches = [
        decoded_cache(
            run, source, models=models, verify=verify, between_batches=between_batches
        )
        for run in runs
    ]  # fmt: skip
    coarser = models.info(runs[0]).level
    with ExitStack() as stack:

        def companion(folders: Sequence[CacheFolder], stride: int) -> Companion:
            readers = [LevelReader(folder, coarser, verify=verify) for folder in folders]
            return Companion(tuple(map(stack.enter_context, readers)), stride)

        yield (
            companion([cache.maps for cache in caches], size.stride),
            companion([cache.trail for cache in caches], size.trail_stride),
        )


def _finished(folder: Path, level: int, origin: str) -> DecodedCache | None:
    """Return the caches if both are complete and of that origin."""
    there = DecodedCache(**{part: CacheFolder(folder / part) for part in PARTS})
    for cache in (there.maps, there.trail):
        if not statistics_path(cache.path, level).exists():
            return None
        try:
            plan = cache.manifest
            if plan.decoded_from != origin:
                return None
            if any(levels_due(cache.path, plan, cache.commits).values()):
                return None  # a file of it is gone: it is made again
        except CacheError:  # damaged: it is written anew
            return None
    return there


def _begun(folder: Path, plan: Manifest, source: Path, stack: ExitStack) -> _Part:
    """Return a cache of that plan to go on with, which nobody else writes meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    commits = stack.enter_context(CommitLog(folder))
    settle_cache(folder, plan, images_beside(source, plan), commits, overwrite=True)
    writer = stack.enter_context(closing(CacheWriter(folder, plan, commits)))
    due = {unit.index for unit in writer.pending}
    writer.prepare()
    return _Part(folder=folder, plan=plan, writer=writer, due=due)


def _require_room(run: str | Path, folder: Path, num_bytes: int) -> None:
    """Say what is going to be written; raise CacheError if the disk has no room for it."""
    above = next(each for each in (folder, *folder.parents) if each.is_dir())
    missing = max(0, num_bytes - bytes_there(folder))
    free = shutil.disk_usage(above).free
    if missing > free:
        raise CacheError(
            f"{folder}: what {run} decodes takes {in_words(missing)}, {in_words(free)} "
            "are free: make room, or keep the features on a larger disk (--features)"
        )
    log.info(
        "%s: decoded by %s: %s are still to be written, %s are free",
        folder, run, in_words(missing), in_words(free),
    )  # fmt: skip


def _decode(
    codec: LevelCodec,
    reader: LevelReader,
    companions: Sequence[Companion],
    parts: Sequence[_Part],
    between_batches: Callable[[], None],
) -> None:
    """Write the units that are due in either cache."""
    level, device = reader.info.index, codec.mean.device
    plan = parts[0].plan
    members = samples_by_bucket(plan)
    units = [unit for unit in units_of(plan) if any(unit.index in part.due for part in parts)]
    with tqdm(
        total=sum(unit.num_rows for unit in units), desc=f"decode level {level}", unit="image",
        disable=None, mininterval=bar_interval_s(),
    ) as bar:  # fmt: skip
        for unit in units:
            rows = members[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]
            for batch in whole_map_batches(reader, _MAPS_AT_ONCE, rows, companions):
                between_batches()
                x = batch.features.to(device).float()  # half the bytes to a GPU
                decoded = codec.decoded(x, Context.of(batch.beside, device))
                for part, values in zip(parts, (decoded.maps, decoded.trail), strict=True):
                    maps = _to_store(values, part.plan, level, unit.bucket)
                    if unit.index in part.due:
                        part.writer.write(unit, {level: maps})
                bar.update(len(x))
    for part in parts:
        if part.due or not statistics_path(part.folder, level).exists():
            part.writer.finish()


def _to_store(values: Tensor, plan: Manifest, level: int, bucket: int) -> list[Tensor]:
    """Return [B, C, H, W] as maps to store, [H, W, C] each."""
    maps = values.permute(0, 2, 3, 1).contiguous().cpu()
    if (found := tuple(maps.shape[1:])) != (planned := plan.sample_shape(level, bucket)):
        raise ConfigError(
            f"level {level}: the codec decodes {found} where its settings say {planned} (height, "
            "width, channels): a codec of your own has to keep model.stages and model.n_channels "
            "to be a context"
        )
    return [within_range(each.numpy(), plan.dtype) for each in maps]
