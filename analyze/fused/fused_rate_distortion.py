"""Rate and distortion of a codec of all levels over a split, level by level, from real files."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from analyze.facts.candidates import Candidate
from analyze.facts.kept_results import Kept
from analyze.facts.results import Measurement
from analyze.file_format.image_file import ImageFile, pack, unpack
from analyze.maps.map_source import DecodedMaps
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.level_rate_distortion import CodedTotals
from analyze.measure.split import Split
from analyze.streams.fused_levels import FusedLevels
from analyze.streams.level_file import bytes_in_pyramid, model_id
from data.system.threads import per_image
from train.codecs.fused_pyramid import FusedPyramid
from train.objective.rate_distortion import rate_bits
from train.runs.checkpoint import RunInfo
from train.runs.loaded_models import LoadedModels

_LOG = logging.getLogger(__name__)

_METHOD = "fused levels 1"


@dataclass(frozen=True, slots=True)
class _Image:
    """What one image takes and loses, level by level; `estimated_bits` are of all."""

    level_bytes: list[int]
    payload_bytes: int
    squared_errors: list[float]
    estimated_bits: float
    encode_s: float
    decode_s: float


def measured_levels(
    runs: Mapping[int, Candidate],
    info: RunInfo,
    split: Split,
    decoded: DecodedLevels,
    models: LoadedModels,
    kept: Kept,
) -> dict[int, Measurement]:
    """Return rate and error of each level over the split, from real bitstreams.

    `kept` is asked first. What is measured leaves its maps in `decoded`.
    """
    folder = next(iter(runs.values())).model_folder
    key = _key(info, split, models)
    name = f"levels {list(runs)} in one, lambda {info.lmbda:.3g}"
    if (found := kept.get(key)) is not None:
        _LOG.info("%s: measured before", name)
        return {
            int(level): Measurement(**{**facts, "run": str(folder)})
            for level, facts in found.facts.items()
        }
    fused = FusedLevels(levels=info.levels, codec=fused_codec(folder, models))
    into = {level: decoded.new(run) for level, run in runs.items()}
    images = _code(fused, info, split, range(split.num_images), into)
    measured = _totals(images, fused, info, split, str(folder))
    kept.put(key, {str(level): dataclasses.asdict(each) for level, each in measured.items()}, {})
    finest = measured[info.levels[0]]
    _LOG.info(
        "%s: estimated %.4g and real %.4g bits per position of level %d",
        name, finest.estimated_bpp, finest.real_bpp, info.levels[0],
    )  # fmt: skip
    return measured


def is_measured(info: RunInfo, split: Split, models: LoadedModels, kept: Kept) -> bool:
    """Whether an earlier analysis has kept what `measured_levels` returns."""
    return kept.get(_key(info, split, models)) is not None


def time_coding(folder: Path, split: Split, models: LoadedModels, images: Sequence[int]) -> None:
    """Send images through a file as measuring does, and keep nothing."""
    info = models.info(folder)
    _code(FusedLevels(levels=info.levels, codec=fused_codec(folder, models)), info, split, images)


def _key(info: RunInfo, split: Split, models: LoadedModels) -> dict[str, Any]:
    return {
        "method": _METHOD,
        "model": info.model_sha256,
        "cache": split.cache.content_id,
        "images": split.num_images,
        "device": models.device,
    }


def _code(
    fused: FusedLevels,
    info: RunInfo,
    split: Split,
    images: Sequence[int],
    decoded: Mapping[int, DecodedMaps | None] = MappingProxyType({}),
) -> list[_Image]:
    """Send each image through a file, and fill `decoded`, where there is room, with the results."""
    identity, samples = model_id(info.model_sha256), split.manifest.samples
    device = str(fused.codec.mean.device)

    def code(index: int) -> _Image:
        maps = {level: split.readers[level].sample(index) for level in fused.levels}
        sample = samples[index]
        started = time.perf_counter()
        file = pack(
            ImageFile(
                ensemble_id=identity,
                image_id=sample.image_id,
                image_hw=(sample.height, sample.width),
                sections=tuple(fused.sections(maps).values()),
            )
        )
        encoded = time.perf_counter()
        sections = unpack(file).sections
        restored = fused.decoded(sections, "bitstream")
        decoded_at = time.perf_counter()
        for level, into in decoded.items():
            if into is not None:
                into.write(index, restored[level])
        return _Image(
            level_bytes=[
                bytes_in_pyramid(section, split.readers[section.level], index)
                for section in sections
            ],
            payload_bytes=sum(map(len, sections[0].payloads)),
            squared_errors=[
                float(np.square(restored[level] - maps[level], dtype=np.float64).sum())
                for level in fused.levels
            ],
            estimated_bits=float(rate_bits(fused.codec.likelihoods(fused.tensors(maps))).sum()),
            encode_s=encoded - started,
            decode_s=decoded_at - encoded,
        )

    # The first of all codings compiles the coder, or loads it, and is not to be timed.
    code(images[0])
    return list(per_image(code, images, device))


def _totals(
    images: Sequence[_Image], fused: FusedLevels, info: RunInfo, split: Split, run: str
) -> dict[int, Measurement]:
    measured: dict[int, Measurement] = {}
    for row, level in enumerate(fused.levels):
        reader, is_finest = split.readers[level], row == 0
        positions = int(reader.shapes[: split.num_images, :2].prod(axis=1).sum())
        totals = CodedTotals(
            squared_error=sum(image.squared_errors[row] for image in images),
            elements=positions * reader.info.num_channels,
            positions=positions,
            pixels=split.num_pixels,
            estimated_bits=sum(image.estimated_bits for image in images) if is_finest else 0.0,
            real_bytes=sum(image.level_bytes[row] for image in images),
            payload_bytes=sum(image.payload_bytes for image in images) if is_finest else 0,
            encode_s=sum(image.encode_s for image in images),
            decode_s=sum(image.decode_s for image in images),
        )
        measured[level] = totals.measurement(info, run, reader, len(images))
    return measured


def fused_codec(folder: Path, models: LoadedModels) -> FusedPyramid:
    """Return the codec of a fused run, ready to code."""
    codec = models.codec(folder)
    assert isinstance(codec, FusedPyramid), "is_fused says so"
    return codec
