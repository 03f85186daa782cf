"""Rate and distortion of one codec over one level of a split, from real bitstreams."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analyze.facts.candidates import Candidate
from analyze.facts.kept_results import Kept
from analyze.facts.results import Measurement, psnr_db
from analyze.facts.sent_parts import ImageCosts, MeasuredRun
from analyze.maps.equal_maps import Batch, batches, on_device, on_host
from analyze.maps.map_source import DecodedMaps
from analyze.measure.context_chain import ContextChain
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.split import Split
from analyze.streams.level_file import (
    bytes_in_pyramid,
    decode_sections,
    encode_sections,
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

_FLOAT32 = np.dtype(np.float32)
_METHOD = "level rate and distortion 4"


@dataclass(frozen=True, slots=True)
class CodedTotals:
    """What a level takes and loses, summed over images."""

    squared_error: float = 0.0
    elements: int = 0
    positions: int = 0
    pixels: int = 0
    estimated_bits: float = 0.0
    real_bytes: int = 0
    payload_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0

    def plus(self, other: CodedTotals) -> CodedTotals:
        """Return the sums of both."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return CodedTotals(*(one + more for one, more in pairs))

    def measurement(
        self, run: RunInfo, run_name: str, reader: LevelReader, num_images: int
    ) -> Measurement:
        """Return the figures of a run over so many images of the reader's level."""
        statistics = reader.statistics
        value_range = float(statistics.maximum.max() - statistics.minimum.min())
        mse = self.squared_error / self.elements
        return Measurement(
            run=run_name,
            lmbda=run.lmbda,
            num_parameters=run.num_parameters,
            mse=mse,
            value_range=value_range,
            psnr_db=psnr_db(mse, value_range),
            estimated_bpp=self.estimated_bits / self.positions,
            real_bpp=self.real_bytes * 8 / self.positions,
            payload_bpp=self.payload_bytes * 8 / self.positions,
            bits_per_pixel=self.real_bytes * 8 / self.pixels,
            encode_ms=self.encode_s / num_images * 1e3,
            decode_ms=self.decode_s / num_images * 1e3,
        )


def measure_level(
    codec: LevelCodec,
    run: RunInfo,
    reader: LevelReader,
    indices: Sequence[int],
    decoded: DecodedMaps | None,
    run_name: str,
    *,
    chain: ContextChain | None = None,
    progress: str | None = None,
) -> tuple[Measurement, ImageCosts]:
    """Send the samples `indices` through bitstreams and fill `decoded`, if any, with the results.

    `codec` is ready to code, `run` what is known of it; `progress` names a bar. A contextual codec
    sees what `chain` decodes, which counts neither in its bits nor in its time. On a GPU maps go in
    batches, some of which are coded on the CPU while others are transformed: times are an image's
    share of its batch's, of whatever went on beside it.
    """
    device = str(next(codec.parameters()).device)
    identity, level = model_id(run.model_sha256), reader.info.index

    def measure(batch: Batch) -> list[CodedTotals]:
        maps = on_device(reader, batch, device)
        beside = None if chain is None else chain.beside(batch)
        given = {} if beside is None else {"context": beside.decoded}
        started = time.perf_counter()
        files = [
            pack_level(section, identity)
            for section in (
                encode_sections(codec, maps, level=level)
                if chain is None
                else chain.sections(codec, maps, beside)
            )
        ]
        encoded = time.perf_counter()
        sections = [unpack_level(data, level=level, identity=identity) for data in files]
        x_hat = decode_sections(codec, sections, source="bitstream", **given).maps
        restored = on_host(x_hat, reader.value_dtype)
        decoded_at = time.perf_counter()
        if decoded is not None:
            for index, values in zip(batch, restored, strict=True):
                decoded.write(index, values)
        return [
            CodedTotals(
                squared_error=squared_error,
                elements=maps[0].numel(),
                positions=maps[0, 0].numel(),
                pixels=sample.height * sample.width,
                estimated_bits=bits,
                real_bytes=bytes_in_pyramid(section, reader, index),
                payload_bytes=sum(len(payload) for payload in section.payloads),
                encode_s=(encoded - started) / len(batch),
                decode_s=(decoded_at - encoded) / len(batch),
            )
            for index, sample, section, squared_error, bits in zip(
                batch,
                [reader.manifest.samples[index] for index in batch],
                sections,
                _squared_errors(x_hat, maps),
                rate_bits(codec.likelihoods(maps, **given)).tolist()
                if chain is None or chain.is_sent
                else [0.0] * len(batch),
                strict=True,
            )
        ]

    # The first of all codings compiles the coder, or loads it, and is not to be timed.
    measure((indices[0],))
    each: list[CodedTotals] = []
    with tqdm(
        desc=progress, total=len(indices), unit="image", leave=False,
        disable=True if progress is None else None,
    ) as bar:  # fmt: skip
        for of_batch in per_image(measure, batches(reader, indices, device), device):
            each += of_batch
            bar.update(len(of_batch))
    assert each, "the manifest refuses empty splits"
    totals = reduce(CodedTotals.plus, each)
    of_images = ImageCosts(
        bits=np.array([8 * image.real_bytes for image in each], dtype=np.int64),
        squared_error=np.array([image.squared_error for image in each], dtype=np.float64),
    )
    return totals.measurement(run, run_name, reader, len(each)), of_images


def _squared_errors(x_hat: Tensor, maps: Tensor) -> list[float]:
    """Return each map's sum of squared differences."""
    if maps.device.type != "cpu":
        sums: list[float] = (x_hat - maps).square().sum((1, 2, 3), dtype=torch.float64).tolist()
        return sums
    # By NumPy and in the stored order of values, as it was when older results were kept.
    pairs = zip(on_host(x_hat, _FLOAT32), on_host(maps, _FLOAT32), strict=True)
    return [
        float(np.square(restored - values, dtype=np.float64).sum()) for restored, values in pairs
    ]


def is_measured(run: Candidate, split: Split, models: LoadedModels, kept: Kept) -> bool:
    """Say whether an earlier analysis has kept a run's rate and distortion over the split."""
    return kept.get(_key(run, split, models)) is not None


def measured_run(
    run: Candidate,
    split: Split,
    decoded: DecodedLevels,
    models: LoadedModels,
    kept: Kept,
    *,
    image_by_image: bool = False,
    name: str = "",
) -> MeasuredRun:
    """Return a run with its rate and distortion over the split, from real bitstreams.

    `kept` is asked first; what it holds was measured on the same weights, own code and cache. What
    is measured leaves its maps in `decoded`, where detection finds them. With `image_by_image`
    each image's costs are there, too: earlier versions kept the sums alone. `name` is what the log
    calls it, as others may share its level and lambda.
    """
    key = _key(run, split, models)
    name = name or f"level {run.level}, lambda {run.lmbda:.3g}"
    found = kept.get(key)
    if found is not None and (found.arrays or not image_by_image):
        _LOG.info("%s: measured before", name)
        measurement = Measurement(**{**found.facts, "run": str(run.folder)})
        costs = ImageCosts(**found.arrays) if found.arrays else None
        return MeasuredRun(run=run, measurement=measurement, of_images=costs)
    measurement, of_images = measure_level(
        models.codec(run.model_folder, level=run.level),
        models.info(run.model_folder),
        split.readers[run.level],
        range(split.num_images),
        decoded.new(run),
        str(run.folder),
        chain=ContextChain(run, split.readers, models),
        progress=name,
    )
    kept.put(key, dataclasses.asdict(measurement), of_images.arrays())
    _LOG.info(
        "%s: MSE %.4g, estimated %.4g and real %.4g bits per position",
        name, measurement.mse, measurement.estimated_bpp, measurement.real_bpp,
    )  # fmt: skip
    return MeasuredRun(run=run, measurement=measurement, of_images=of_images)


def _key(run: Candidate, split: Split, models: LoadedModels) -> dict[str, Any]:
    key: dict[str, Any] = {
        "method": _METHOD,
        "model": run.model_sha256,
        "level": run.level,
        "cache": split.cache.content_id,
        "images": split.num_images,
        "device": models.device,
    }
    if run.chain:
        key["beside"] = [
            [each.model_sha256, each.code, "predicted" if each.is_predicted else "coded"]
            for each in run.chain
        ]
    if run.is_predicted:
        key["predicted"] = True
    if run.code:
        key["code"] = run.code
    if models.is_layer_by_layer(run.model_folder):
        key["fast_cpu"] = "never"  # other times, and other last digits
    return key
