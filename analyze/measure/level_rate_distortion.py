"""Rate and distortion of one codec over one level of a split, from real bitstreams."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from analyze.facts.results import Measurement
from analyze.maps.map_source import DecodedMaps, as_batch
from analyze.maps.per_image import per_image
from analyze.streams.image_file import Kind, Section
from analyze.streams.level_file import bytes_in_pyramid, model_id, pack_level, unpack_level
from data.reading.level_reader import LevelReader
from train.objective.rate_distortion import rate_bits


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
    codec: Any,
    run: Any,
    reader: LevelReader,
    indices: Sequence[int],
    decoded: DecodedMaps,
    run_name: str,
    *,
    progress: str | None = None,
) -> Measurement:
    """Send the samples `indices` through bitstreams one by one and fill `decoded` with the results.

    `codec` and `run` are what train.runs.checkpoint.load_codec returns; `progress` names a bar.
    """
    device = next(codec.parameters()).device
    identity, level = model_id(run.model_sha256), reader.info.index

    def measure(index: int) -> _Totals:
        values = np.array(reader.sample(index), dtype=np.float32)
        maps = as_batch(values).to(device)
        started = time.perf_counter()
        data = encode_map(codec, maps, level=level, identity=identity)
        encoded = time.perf_counter()
        restored = decode_map(codec, data, level=level, identity=identity)
        decoded_at = time.perf_counter()
        decoded.write(index, restored)
        height, width, channels = values.shape
        sample = reader.manifest.samples[index]
        section = unpack_level(data, level=level, identity=identity)
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
    decode_map(
        codec, encode_map(codec, warm, level=level, identity=identity),
        level=level, identity=identity,
    )  # fmt: skip
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


def psnr_db(mse: float, value_range: float) -> float:
    """Return 10 log10(value_range^2 / mse) in dB; infinite for mse 0."""
    if mse == 0:
        return math.inf
    return 10 * math.log10(value_range**2 / mse) if value_range > 0 else -math.inf


def encode_map(codec: Any, maps: torch.Tensor, *, level: int, identity: bytes) -> bytes:
    """Return a file of one map, float32 [1, C, H, W]."""
    section = encode_section(codec, maps, level=level)
    return pack_level(section, identity)


def encode_section(codec: Any, maps: torch.Tensor, *, level: int) -> Section:
    """Return what a file holds of one map, float32 [1, C, H, W]."""
    coded = codec.compress(maps)
    section = Section(
        level=level,
        kind=Kind.CODED,
        size_hw=tuple(coded["size"]),
        stages=codec.size.stages,
        payloads=tuple(coded["strings"][0]),
    )
    assert section.latent_hw == tuple(coded["shape"]), "the latents' shape follows"
    return section


def decode_map(codec: Any, data: bytes, *, level: int, identity: bytes) -> NDArray[Any]:
    """Return the map float32 [H, W, C] of a bitstream; CacheError if it is another model's."""
    section = unpack_level(data, level=level, identity=identity)
    out = codec.decompress([list(section.payloads)], section.latent_hw, section.size_hw)
    restored: NDArray[Any] = out["x_hat"][0].permute(1, 2, 0).cpu().numpy()
    return restored
