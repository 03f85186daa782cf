"""The bitstream: everything a decoder needs, besides the model, for one image's map at one level.

Little endian: magic, version, level, number of payloads, model id, true size H W of the map,
latent shape h w, one length per payload, the payloads, CRC32 of all that precedes it. The
per-channel standardisation travels in the checkpoint, so the model id names it too.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from configs.errors import CacheError

MAGIC = b"FPNL"
VERSION = 1
MODEL_ID_BYTES = 16
MAX_PAYLOADS = 8

_HEADER = struct.Struct(f"<4sBBB{MODEL_ID_BYTES}sHHHH")
_LENGTH = struct.Struct("<I")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bitstream:
    """What a container holds. `size_hw` is in feature positions, `latent_hw` in latents."""

    level: int
    model_id: bytes
    size_hw: tuple[int, int]
    latent_hw: tuple[int, int]
    payloads: tuple[bytes, ...]


def model_id(model_sha256: str) -> bytes:
    """Return the first 16 bytes of a model's hash (hex), which every bitstream carries."""
    return bytes.fromhex(model_sha256)[:MODEL_ID_BYTES]


def header_bytes(num_payloads: int) -> int:
    """Return how many bytes of a bitstream are not payload."""
    return _HEADER.size + num_payloads * _LENGTH.size + _CRC.size


def pack(stream: Bitstream) -> bytes:
    """Return the bytes of one image's one level."""
    assert len(stream.model_id) == MODEL_ID_BYTES, "model_id() makes ids of the right length"
    assert 1 <= len(stream.payloads) <= MAX_PAYLOADS, "a codec has one to eight payloads"
    head = _HEADER.pack(
        MAGIC,
        VERSION,
        stream.level,
        len(stream.payloads),
        stream.model_id,
        *stream.size_hw,
        *stream.latent_hw,
    )
    lengths = b"".join(_LENGTH.pack(len(payload)) for payload in stream.payloads)
    body = b"".join((head, lengths, *stream.payloads))
    return body + _CRC.pack(zlib.crc32(body))


def unpack(data: bytes, source: str = "bitstream") -> Bitstream:
    """Read a container; `source` is what messages call it.

    Raises CacheError if it is truncated, altered, padded, or of another kind or version.
    """
    if len(data) < header_bytes(0):
        raise _damaged(source, f"{len(data)} bytes are fewer than its header")
    magic, version, level, num_payloads, identity, *sizes = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _damaged(source, "it does not start as a bitstream of this program")
    if version != VERSION:
        raise CacheError(
            f"{source}: bitstream format {version}, this program reads {VERSION}: "
            "compress the features again, or decode with the program that wrote it"
        )
    # Checked before any length is believed, so that a flipped length is never followed.
    if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise _damaged(source, "its checksum does not match")
    if not 1 <= num_payloads <= MAX_PAYLOADS or min(sizes) < 1:
        raise _damaged(source, "its header holds impossible sizes")
    if len(data) < header_bytes(num_payloads):
        raise _damaged(source, f"{len(data)} bytes are fewer than its header")
    lengths = [
        _LENGTH.unpack_from(data, _HEADER.size + number * _LENGTH.size)[0]
        for number in range(num_payloads)
    ]
    if header_bytes(num_payloads) + sum(lengths) != len(data):
        raise _damaged(source, "its payload lengths do not add up to its size")
    payloads = []
    start = _HEADER.size + num_payloads * _LENGTH.size
    for length in lengths:
        payloads.append(bytes(data[start : start + length]))
        start += length
    height, width, latent_height, latent_width = sizes
    return Bitstream(
        level=level,
        model_id=identity,
        size_hw=(height, width),
        latent_hw=(latent_height, latent_width),
        payloads=tuple(payloads),
    )


def require_model(
    stream: Bitstream, *, level: int, expected_id: bytes, source: str = "bitstream"
) -> None:
    """Raise CacheError unless the stream was made by this model, for this level."""
    if stream.level != level:
        raise CacheError(
            f"{source}: holds level {stream.level}, not level {level}: "
            f"decode it with the checkpoint of level {stream.level}"
        )
    if stream.model_id != expected_id:
        raise CacheError(
            f"{source}: was made by model {stream.model_id.hex()}, this is {expected_id.hex()}: "
            "decode it with the checkpoint that encoded it"
        )


def _damaged(source: str, problem: str) -> CacheError:
    return CacheError(f"{source}: is damaged ({problem}): compress the features again")
