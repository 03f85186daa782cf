"""Rate and distortion of one anchor over one level of a split, from real bitstreams."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.anchors.contract import AnchorCodec, SymbolCodec, codec_id, decode_map, pack_payload
from analyze.facts.results import psnr_db
from analyze.maps.map_source import DecodedMaps
from analyze.streams.level_file import bytes_in_pyramid, unpack_level
from data.reading.level_reader import LevelReader
from data.system.threads import per_image
from train.codecs.entropy.symbol_tables import SymbolCounts


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorMeasurement:
    """One anchor at one rate point over a split; units are those of `results.Measurement`."""

    anchor: str
    point: str
    mse: float
    """Mean squared error over all elements in the features' own units, from real bitstreams."""
    value_range: float
    """Largest minus smallest value of the level in the cache."""
    psnr_db: float
    """10 log10(value_range^2 / mse)."""
    ideal_bpp: float | None
    """Bits per feature position of the symbols' zeroth-order entropy, each channel under its own
    frequencies in the evaluated samples: no coder with one fixed table a channel can beat it (the
    KLT's, which leaves out what is zero in all of a map, may). None for anchors that do not code
    symbol by symbol."""
    real_bpp: float
    """Bits per feature position that the level takes in the bitstreams, its head included."""
    payload_bpp: float
    """The same without heads."""
    bits_per_pixel: float
    """Real bits per pixel of the original images."""
    ideal_bits_per_pixel: float | None
    """As `ideal_bpp`, per pixel of the original images."""
    encode_ms: float
    """Mean per image, map in memory to bitstream."""
    decode_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sent:
    """One sample after its way through a bitstream."""

    sample: int
    data: bytes
    squared_error: float
    encode_s: float
    decode_s: float
    symbols: NDArray[Any] | None


def measure_anchor(
    name: str,
    codec: AnchorCodec,
    reader: LevelReader,
    indices: Iterable[int],
    decoded: DecodedMaps | None = None,
) -> AnchorMeasurement:
    """Send the samples `indices` through bitstreams one by one; fill `decoded` with the results.

    `name` is the anchor's. Raises CacheError if a sample is damaged, ConfigError if an encoder
    refuses the size of a picture.
    """
    identity, level = codec_id(codec), reader.info.index
    counted = SymbolCounts(reader.info.num_channels)
    squared_error, encode_s, decode_s = 0.0, 0.0, 0.0
    num_images = positions = pixels = real_bytes = payload_bytes = 0

    def send(index: int) -> _Sent:
        values = np.array(reader.sample(index), dtype=np.float32)
        started = time.perf_counter()
        symbols, payload = _encode(codec, values)
        height, width, _ = values.shape
        data = pack_payload(payload, (height, width), level=level, identity=identity)
        encoded_at = time.perf_counter()
        restored = decode_map(codec, data, level=level, identity=identity)
        decoded_at = time.perf_counter()
        if decoded is not None:
            decoded.write(index, restored)
        return _Sent(
            sample=index,
            data=data,
            squared_error=float(np.square(restored - values, dtype=np.float64).sum()),
            encode_s=encoded_at - started,
            decode_s=decoded_at - encoded_at,
            symbols=symbols,
        )

    for sent in per_image(send, indices, "cpu"):
        if sent.symbols is not None:
            counted.add(sent.symbols)
        encode_s += sent.encode_s
        decode_s += sent.decode_s
        squared_error += sent.squared_error
        height, width, _ = reader.shape(sent.sample)
        sample = reader.manifest.samples[sent.sample]
        positions += height * width
        pixels += sample.height * sample.width
        section = unpack_level(sent.data, level=level, identity=identity)
        real_bytes += bytes_in_pyramid(section, reader, sent.sample)
        payload_bytes += len(section.payloads[0])
        num_images += 1
    assert num_images > 0, "the manifest refuses empty splits"
    statistics = reader.statistics
    value_range = float(statistics.maximum.max() - statistics.minimum.min())
    mse = squared_error / (positions * reader.info.num_channels)
    ideal_bits = counted.entropy_bits if isinstance(codec, SymbolCodec) else None
    return AnchorMeasurement(
        anchor=name,
        point=codec.point,
        mse=mse,
        value_range=value_range,
        psnr_db=psnr_db(mse, value_range),
        ideal_bpp=None if ideal_bits is None else ideal_bits / positions,
        real_bpp=real_bytes * 8 / positions,
        payload_bpp=payload_bytes * 8 / positions,
        bits_per_pixel=real_bytes * 8 / pixels,
        ideal_bits_per_pixel=None if ideal_bits is None else ideal_bits / pixels,
        encode_ms=encode_s / num_images * 1e3,
        decode_ms=decode_s / num_images * 1e3,
    )


def _encode(codec: AnchorCodec, values: NDArray[Any]) -> tuple[NDArray[Any] | None, bytes]:
    """Return a map's symbols, if it has such, and its payload."""
    if not isinstance(codec, SymbolCodec):
        return None, codec.encode(values)
    symbols = codec.symbols(values)
    return symbols, codec.encode_symbols(symbols)
