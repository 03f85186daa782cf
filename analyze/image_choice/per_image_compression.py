"""Compress a split's cache, each image by the models that it chooses at a slope common to all."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from analyze.facts.kept_results import Kept
from analyze.file_format.image_file import ImageFile
from analyze.image_choice.chain_choice import WayCosts, choose, slope_for
from analyze.image_choice.way_costs import WayMeter
from analyze.image_choice.ways import Ways, plain_ways
from analyze.streams.compression import Compressed, refuse_other_detector_runs, write_streams
from analyze.streams.ensemble import ModelLevel
from analyze.streams.per_image_codec import PerImageCodec
from analyze.streams.streams_index import FILE_NAME, PerImageIndex, load_index
from analyze.streams.unsent_levels import KnownMeans, overhead, training_cache
from configs.errors import ConfigError
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from data.system.threads import per_image
from train.runs.loaded_models import LoadedModels

_LOG = logging.getLogger(__name__)

_METHOD = "costs of ways 1"
_MEASURED = "measured"


def compress_per_image(
    cache: CacheFolder | Path | str,
    ways: Ways,
    out: Path | str,
    *,
    slope: float | None = None,
    target_bits_per_pixel: float | None = None,
    models: LoadedModels | None = None,
    show_progress: bool = True,
) -> Compressed:
    """Write the split's files into `out`; goes on where an earlier call stopped, to the same bytes.

    `slope` is the distortion that a kilobyte less of an image's file may cost; or it is the least
    at which all files take at most `target_bits_per_pixel` of the original images. Then all images
    are measured before the first is written; what is measured stays in `out` until all is done.
    Raises as `compress_cache`, and ConfigError unless one of the two is given, and if the target is
    out of reach.
    """
    if (slope is None) == (target_bits_per_pixel is None):
        raise ConfigError("--per-image: give one of --slope and --target-bpp")
    cache, out, models = CacheFolder.of(cache), Path(out), models or LoadedModels()
    manifest = cache.manifest
    manifest.require_whole_maps()
    ways.require_levels(manifest.levels)
    refuse_other_detector_runs([each.run for each in ways.models], cache, models)
    _require_chains(ways, models)
    known = KnownMeans(cache, training_cache(cache))
    means = {info.index: known.of(info.index) for info in manifest.levels}
    codec = PerImageCodec(ways.models, means, models)
    kept = Kept(out / _MEASURED if slope is None else None)
    chooser = _Chooser(ways, codec, means, kept, cache.content_id)
    chosen: dict[str, Any] = {"distortion": ways.distortion, "ways": plain_ways(ways)}
    if target_bits_per_pixel is not None:
        chosen["target_bits_per_pixel"] = target_bits_per_pixel

    def prepare(readers: Mapping[int, LevelReader]) -> tuple[PerImageIndex, _Chooser]:
        found = slope
        if target_bits_per_pixel is not None:
            found = _slope_told_before(out, chosen)
            if found is None:
                found = chooser.slope_at(target_bits_per_pixel, readers, show_progress)
        assert found is not None, "one of the two is given"
        _LOG.info("slope: %.6g of %s by kilobyte of an image's file", found, ways.distortion)
        chooser.slope = found
        index = PerImageIndex(
            models=ways.models, models_id=codec.listed.identity, means=means, manifest=manifest,
            chosen={**chosen, "slope": found},
        )  # fmt: skip
        return index, chooser

    done = write_streams(cache, out, prepare, show_progress=show_progress)
    shutil.rmtree(out / _MEASURED, ignore_errors=True)
    return done


class _Chooser:
    """Measures each image in all ways, and codes it in the best ones at the slope."""

    def __init__(
        self,
        ways: Ways,
        codec: PerImageCodec,
        means: Mapping[int, NDArray[Any]],
        kept: Kept,
        cache_content: str,
    ) -> None:
        self.device = codec.device
        self.slope = 0.0
        self._ways = ways
        self._codec = codec
        self._meter = WayMeter(ways, means, codec.listed, codec.device)
        self._kept = kept
        # Weights are none of it: they say what an error is worth, not how large it is.
        coded = [{**each, "weight": None} for each in plain_ways(ways)]
        self._key = {
            "method": _METHOD,
            "models": codec.listed.identity.hex(),
            "ways": coded,
            "cache": cache_content,
            "device": codec.device,
        }

    def encode(
        self, maps: Mapping[int, NDArray[Any]], *, image_id: int, image_hw: tuple[int, int]
    ) -> bytes:
        """Return the file of one image's maps, float [H, W, C] of every level."""
        choices = choose(self._ways.each, self._costs(image_id, maps), self.slope)
        ensemble = self._ways.ensemble(choices.ways[0])
        return self._codec.of(ensemble).encode(maps, image_id=image_id, image_hw=image_hw)

    def require_own(self, image: ImageFile, source: str) -> None:
        """Raise CacheError unless the file is of an image that chose out of the same models."""
        self._codec.require_own(image, source)

    def slope_at(
        self, bits_per_pixel: float, readers: Mapping[int, LevelReader], show_progress: bool
    ) -> float:
        """Return the least slope that meets a target; ConfigError if none does."""
        manifest = next(iter(readers.values())).manifest

        def of_image(number: int) -> WayCosts:
            maps = {level: reader.sample(number) for level, reader in readers.items()}
            return self._costs(manifest.samples[number].image_id, maps)

        numbers = range(len(manifest.samples))
        each = list(
            tqdm(
                per_image(of_image, numbers, self.device),
                desc="measure", total=len(numbers), unit="image",
                disable=None if show_progress else True,
            )
        )  # fmt: skip
        costs = WayCosts(
            num_bytes=np.concatenate([one.num_bytes for one in each]),
            mse=np.concatenate([one.mse for one in each]),
        )
        num_pixels = sum(sample.height * sample.width for sample in manifest.samples)
        shared = overhead(manifest, len(numbers)).shared
        most_bytes = math.floor((bits_per_pixel - shared) * num_pixels / 8)
        slope = slope_for(self._ways.each, costs, most_bytes)
        if slope is None:
            raise ConfigError(
                f"--target-bpp {bits_per_pixel:g}: no choice of these candidates takes so few "
                "bits: name a larger one, or runs of larger lambdas, too"
            )
        return slope

    def _costs(self, image_id: int, maps: Mapping[int, NDArray[Any]]) -> WayCosts:
        key = {**self._key, "image": image_id}
        if (found := self._kept.get(key)) is not None:
            return WayCosts(num_bytes=found.arrays["num_bytes"], mse=found.arrays["mse"])
        costs = self._meter.costs(maps)
        self._kept.put(key, {}, {"num_bytes": costs.num_bytes, "mse": costs.mse})
        return costs


def _require_chains(ways: Ways, models: LoadedModels) -> None:
    """Raise ConfigError unless runs serve their levels, beside what they know, and all levels go.

    A contextual run knows what it was trained beside, and another one knows nothing.
    """
    for place, way in enumerate(ways.each):
        if not isinstance(way.how, ModelLevel):
            continue
        run = models.info(way.how.run)
        run.row_of(way.level, way.how.run)
        seen = None if way.beside is None else ways.each[way.beside].how
        fits = isinstance(seen, ModelLevel) and seen.model_sha256 in run.context
        if fits if run.config.model.context is not None else way.beside is None:
            continue
        raise ConfigError(
            f"way {place} of the candidates, level {way.level}: {way.how.run} is not beside a run "
            "that it was trained beside: name the candidates of an analysis of these runs"
        )
    nothing = np.zeros((1, len(ways.each)))
    try:
        choose(ways.each, WayCosts(num_bytes=nothing.astype(np.int64), mse=nothing), 1.0)
    except ValueError as error:
        raise ConfigError(
            f"the candidates: {error}: name those of an analysis, as it wrote them"
        ) from None


def _slope_told_before(out: Path, chosen: Mapping[str, Any]) -> float | None:
    """Return the slope in the index that an earlier call for the same target has written."""
    if not (out / FILE_NAME).exists():
        return None
    index = load_index(out)
    told = dict(index.chosen) if isinstance(index, PerImageIndex) else {}
    slope = told.pop("slope", None)
    return slope if told == chosen and isinstance(slope, float) else None
