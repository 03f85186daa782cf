"""Decode a split's files into a cache that is like any other, but says where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from analyze.file_format.image_file import unpack
from analyze.streams.ensemble import DerivedLevel, Ensemble, EnsembleLevel, ModelLevel
from analyze.streams.per_image_codec import PerImageCodec, models_id
from analyze.streams.pyramid_codec import PyramidCodec, ensemble_id
from analyze.streams.streams_index import AnyIndex, StreamsIndex, image_path, load_index
from configs.errors import CacheError, ConfigError
from configs.given_files import is_file, regular
from data.cache.channel_statistics import statistics_path
from data.cache.commit_log import CommitLog
from data.cache.manifest import Manifest
from data.cache.plan import samples_by_bucket
from data.system.linked_folders import files_below
from data.system.threads import per_image
from data.writing.decoded import decoded_dtype, decoded_plan, images_beside, within_range
from data.writing.settle import settle_cache
from data.writing.writer import CacheWriter
from train.runs.checkpoint import BEST_NAME
from train.runs.loaded_models import LoadedModels


@dataclass(frozen=True, kw_only=True, slots=True)
class Decompressed:
    """A decoded cache: its folder, its images, and how many of them this call decoded."""

    cache: Path
    num_images: int
    num_new_images: int


def decoded_manifest(index: AnyIndex) -> Manifest:
    """Return the decoded cache's manifest: the original's, and where it was decoded from.

    A level that had a model of its own, of any image, is no longer exactly another one subsampled.
    """
    ways = index.ensemble.levels if isinstance(index, StreamsIndex) else {}
    levels = [
        level
        if isinstance(ways.get(level.index), DerivedLevel)
        else dataclasses.replace(level, derived_from=None)
        for level in index.manifest.levels
    ]
    dtype = decoded_dtype(index.manifest.dtype)
    return decoded_plan(index.manifest, levels, index.origin, dtype)


def find_runs_again(ensemble: Ensemble, checkpoints: Path | None, models: LoadedModels) -> Ensemble:
    """Return the ensemble with the folders in which its models are found now.

    A model is looked for where the index says, then below `checkpoints`, by its hash. Raises
    ConfigError if it is in neither place.
    """
    levels: dict[int, EnsembleLevel] = {}
    found: dict[str, Path] = {}
    for level, how in ensemble.levels.items():
        if isinstance(how, ModelLevel):
            sha256 = how.model_sha256
            if sha256 not in found:
                found[sha256] = _folder_of(how, checkpoints, f"level {level}", models)
            how = dataclasses.replace(how, run=found[sha256])
        levels[level] = how
    return Ensemble(levels)


def decompress_folder(
    folder: Path | str,
    out: Path | str,
    *,
    checkpoints: Path | str | None = None,
    models: LoadedModels | None = None,
    show_progress: bool = True,
) -> Decompressed:
    """Decode `folder`'s files into the cache `out`/<split>; goes on where an earlier call stopped.

    Values beyond float16 are clipped where the cache is of float16. `models` are those that are
    read already, and say on which device; without, on the CPU. Raises CacheError if a file is
    missing, damaged or of other models, or if another plan's cache is there; ConfigError if a model
    is not found.
    """
    folder, out, models = Path(folder), Path(out), models or LoadedModels()
    index = load_index(folder)
    codec = _codec_of(index, folder, None if checkpoints is None else Path(checkpoints), models)
    manifest = decoded_manifest(index)
    cache = out / manifest.split
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with CommitLog(cache) as log:
            settle_cache(cache, manifest, images_beside(folder, manifest), log, overwrite=False)
            num_new = _decode(folder, cache, manifest, codec, log, show_progress=show_progress)
    except OSError as error:
        raise CacheError(
            f"{error.filename or cache}: cannot be read or written ({error.strerror or error}): "
            "mend it and run the same command again, it goes on where it stopped"
        ) from error
    return Decompressed(cache=cache, num_images=len(manifest.samples), num_new_images=num_new)


def _codec_of(
    index: AnyIndex, folder: Path, checkpoints: Path | None, models: LoadedModels
) -> PyramidCodec | PerImageCodec:
    """Return what decodes all files of a folder; raises as `decompress_folder`."""
    damaged = f"{folder}: the index is damaged: its models are not those of its id"
    if isinstance(index, StreamsIndex):
        ensemble = find_runs_again(index.ensemble, checkpoints, models)
        if ensemble_id(ensemble, index.means) != index.ensemble_id:
            raise CacheError(damaged)
        return PyramidCodec(ensemble, index.means, models)
    if models_id(index.models, index.means) != index.models_id:
        raise CacheError(damaged)
    found = [
        dataclasses.replace(
            each, run=_folder_of(each, checkpoints, f"model {number} of {folder}", models)
        )
        for number, each in enumerate(index.models)
    ]
    return PerImageCodec(found, index.means, models)


def _decode(
    folder: Path,
    cache: Path,
    manifest: Manifest,
    codec: PyramidCodec | PerImageCodec,
    log: CommitLog,
    *,
    show_progress: bool,
) -> int:
    """Write the units that are due; return their images."""
    members = samples_by_bucket(manifest)
    decode = partial(_decode_image, folder, manifest, codec)
    num_new = 0
    with closing(CacheWriter(cache, manifest, log)) as writer:
        pending = writer.pending
        writer.prepare()
        num_due = sum(unit.num_rows for unit in pending)
        with tqdm(
            total=num_due, desc="decompress", unit="image", disable=None if show_progress else True
        ) as bar:
            for unit in pending:
                rows = members[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]
                for maps in per_image(decode, rows, codec.device):
                    writer.write(unit, maps)
                    num_new += 1
                    bar.update()
        if num_due or not all(
            statistics_path(cache, level.index).exists() for level in manifest.levels
        ):
            writer.finish()
    return num_new


def _decode_image(
    folder: Path, manifest: Manifest, codec: PyramidCodec | PerImageCodec, number: int
) -> dict[int, list[Tensor]]:
    """Return {level: [float32 [H, W, C]]} of one image, within the range of the cache's dtype."""
    sample = manifest.samples[number]
    path = image_path(folder, sample.image_id)
    try:
        data = regular(path).read_bytes()
    except FileNotFoundError:
        raise CacheError(
            f"{path}: missing: run compress-features again, it writes only what is missing"
        ) from None
    if (held := unpack(data, str(path)).image_id) != sample.image_id:
        raise CacheError(f"{path}: holds image {held}: compress the features again")
    sizes_hw = {
        info.index: manifest.sample_shape(info.index, sample.bucket)[:2] for info in manifest.levels
    }
    decoded: Mapping[int, NDArray[Any]] = codec.decode(data, str(path), sizes_hw=sizes_hw)
    return {level: [within_range(values, manifest.dtype)] for level, values in decoded.items()}


def _hash_of(run: Path, models: LoadedModels) -> str | None:
    """Return a run's model hash; None for a damaged one, which is not the one sought."""
    try:
        return models.info(run).model_sha256
    except ConfigError:
        return None


def _best_models(checkpoints: Path) -> list[Path]:
    """Return all best models, those in linked folders too: runs often lie on another disk."""
    try:
        return sorted(path for path in files_below(checkpoints) if path.name == BEST_NAME)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or checkpoints}: cannot be read ({error.strerror}): "
            "name the folder that holds the runs with --checkpoints"
        ) from None


def _folder_of(how: ModelLevel, checkpoints: Path | None, what: str, models: LoadedModels) -> Path:
    is_there = is_file(how.run / BEST_NAME)
    if is_there and models.info(how.run).model_sha256 == how.model_sha256:
        return how.run
    if checkpoints is not None:
        # Runs that were moved as they were come first: to open every checkpoint takes long.
        moved = checkpoints / how.run.parent.name / how.run.name / BEST_NAME
        for path in (moved, *_best_models(checkpoints)):
            if is_file(path) and _hash_of(path.parent, models) == how.model_sha256:
                return path.parent
    raise ConfigError(
        f"{what}: its model {how.model_sha256[:12]} is neither in {how.run} nor below "
        f"{checkpoints if checkpoints is not None else '--checkpoints (not given)'}: "
        "name the folder that holds the runs with --checkpoints"
    )
