"""Rate and distortion of one codec over one level of a split, from real bitstreams."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import reduce

import numpy as np
from tqdm import tqdm

from analyze.facts.candidates import Candidate
from analyze.facts.kept_results import Kept
from analyze.facts.results import Measurement, psnr_db
from analyze.facts.sent_parts import MeasuredRun
from analyze.maps.map_source import DecodedMaps, as_batch
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.split import Split
from analyze.streams.level_file import (
    bytes_in_pyramid,
    decode_section,
    encode_section,
    model_id,
    pack_level,
    unpack_level,
)
from data.reading.level_reader import LevelReader
from data.system.threads import per_image
from train.codecs.level_codec import LevelCodec
from train.objective.rate_distortion import rate_bits
from train.runs.checkpoint import RunInfo
from train.runs.loaded_models import LoadedModels

_LOG = logging.getLogger(__name__)

_METHOD = "level rate and distortion 4"


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over the split's images."""

    squared_error: float = 0.0
    elements: int = 0
    positions: int = 0
    pixels: int = 0
    estimated_bits: float = 0.0
    real_bytes: int = 0
    payload_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0

    def plus(self, other: _Totals) -> _Totals:
        """Return the sums of both."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return _Totals(*(one + more for one, more in pairs))


def measure_level(
    codec: LevelCodec,
    run: RunInfo,
    reader: LevelReader,
    indices: Sequence[int],
    decoded: DecodedMaps,
    run_name: str,
    *,
    progress: str | None = None,
) -> Measurement:
    """Send the samples `indices` through bitstreams one by one and fill `decoded` with the results.

    `codec` is ready to code, `run` what is known of it; `progress` names a bar.
    """
    device = next(codec.parameters()).device
    identity, level = model_id(run.model_sha256), reader.info.index

    def measure(index: int) -> _Totals:
        values = np.array(reader.sample(index), dtype=np.float32)
        maps = as_batch(values).to(device)
        started = time.perf_counter()
        data = pack_level(encode_section(codec, maps, level=level), identity)
        encoded = time.perf_counter()
        section = unpack_level(data, level=level, identity=identity)
        restored = decode_section(codec, section, source="bitstream")
        decoded_at = time.perf_counter()
        decoded.write(index, restored)
        height, width, channels = values.shape
        sample = reader.manifest.samples[index]
        return _Totals(
            squared_error=float(np.square(restored - values, dtype=np.float64).sum()),
            elements=height * width * channels,
            positions=height * width,
            pixels=sample.height * sample.width,
            estimated_bits=float(rate_bits(codec.likelihoods(maps)).sum()),
            real_bytes=bytes_in_pyramid(section, reader, index),
            payload_bytes=sum(len(payload) for payload in section.payloads),
            encode_s=encoded - started,
            decode_s=decoded_at - encoded,
        )

    # The first of all codings compiles the coder, or loads it, and is not to be timed.
    warm = as_batch(np.array(reader.sample(indices[0]), dtype=np.float32)).to(device)
    decode_section(codec, encode_section(codec, warm, level=level), source="bitstream")
    each = list(
        tqdm(
            per_image(measure, indices, str(device)),
            desc=progress, total=len(indices), unit="image", leave=False,
            disable=True if progress is None else None,
        )
    )  # fmt: skip
    assert each, "the manifest refuses empty splits"
    num_images, totals = len(each), reduce(_Totals.plus, each)
    statistics = reader.statistics
    value_range = float(statistics.maximum.max() - statistics.minimum.min())
    mse = totals.squared_error / totals.elements
    return Measurement(
        run=run_name,
        lmbda=run.lmbda,
        num_parameters=run.num_parameters,
        mse=mse,
        value_range=value_range,
        psnr_db=psnr_db(mse, value_range),
        estimated_bpp=totals.estimated_bits / totals.positions,
        real_bpp=totals.real_bytes * 8 / totals.positions,
        payload_bpp=totals.payload_bytes * 8 / totals.positions,
        bits_per_pixel=totals.real_bytes * 8 / totals.pixels,
        encode_ms=totals.encode_s / num_images * 1e3,
        decode_ms=totals.decode_s / num_images * 1e3,
    )


def measured_run(
    run: Candidate, split: Split, decoded: DecodedLevels, models: LoadedModels, kept: Kept
) -> MeasuredRun:
    """Return a run with its rate and distortion over the split, from real bitstreams.

    `kept` is asked first; what it holds was measured on the same weights, own code and cache. What
    is measured leaves its maps in `decoded`, where detection finds them.
    """
    key = {
        "method": _METHOD,
        "model": run.model_sha256,
        "level": run.level,
        "cache": split.cache.content_id,
        "images": split.num_images,
        "device": models.device,
    }
    if run.code:
        key["code"] = run.code
    if models.is_layer_by_layer(run.folder):
        key["fast_cpu"] = "never"  # other times, and other last digits
    name = f"level {run.level}, lambda {run.lmbda:.3g}"
    if (found := kept.get(key)) is not None:
        _LOG.info("%s: measured before", name)
        measurement = Measurement(**{**found.facts, "run": str(run.folder)})
        return MeasuredRun(run=run, measurement=measurement)
    measurement = measure_level(
        models.codec(run.folder),
        models.info(run.folder),
        split.readers[run.level],
        range(split.num_images),
        decoded.new(run),
        str(run.folder),
        progress=name,
    )
    kept.put(key, dataclasses.asdict(measurement), {})
    _LOG.info(
        "%s: MSE %.4g, estimated %.4g and real %.4g bits per position",
        name, measurement.mse, measurement.estimated_bpp, measurement.real_bpp,
    )  # fmt: skip
    return MeasuredRun(run=run, measurement=measurement)
