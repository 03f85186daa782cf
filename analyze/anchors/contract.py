"""What an anchor is: a codec without training, fitted to one level, at a few rate points.

An anchor's level is a section of the same file as a model's, with one payload; it and the fitted
codec are all that a decoder needs.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from analyze.file_format.image_file import ID_BYTES
from analyze.file_format.section_heads import Kind, Section
from analyze.streams.level_file import pack_level, unpack_level
from data.reading.level_reader import LevelReader


class AnchorCodec(Protocol):
    """One anchor at one rate point, fitted to one level: a dataclass of numbers and arrays."""

    kind: ClassVar[str]

    @property
    def point(self) -> str:
        """The rate point in words, e.g. `5 bits`."""

    def encode(self, values: NDArray[Any]) -> bytes:
        """Return the payload of one map, float32 [H, W, C]."""

    def decode(self, payload: bytes, size_hw: tuple[int, int]) -> NDArray[Any]:
        """Return the map, float32 [H, W, C]. The payload must be whole: see `decode_map`."""


@runtime_checkable
class SymbolCodec(AnchorCodec, Protocol):
    """A codec with an ideal rate beside its real one, as it codes symbols channel by channel."""

    def symbols(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the symbols that `encode` codes, int32 [C, H * W]."""

    def encode_symbols(self, symbols: NDArray[Any]) -> bytes:
        """Return the payload of a map with these symbols."""


class Anchor(Protocol):
    """A family of codecs; its fields hold the rate points."""

    @property
    def name(self) -> str:
        """What tables call it, e.g. `HEVC intra, 10 bit`."""

    @property
    def points(self) -> Sequence[dict[str, Any]]:
        """Each rate point's settings, plain values: equal ones fit equal codecs to equal caches."""

    def unavailable(self) -> str | None:
        """Say in one line what has to be installed first; None: nothing."""

    def fit(self, reader: LevelReader, indices: Sequence[int]) -> Sequence[AnchorCodec]:
        """Return a codec for each rate point, fitted to these samples of a train cache."""


def fitting_indices(reader: LevelReader, max_positions: int = 2**17) -> list[int]:
    """Return samples, evenly spread over the split, of about `max_positions` positions in all.

    So many settle 256 channels' covariance and tables: 500 positions for each value of a row of the
    covariance. Fitting then takes seconds. At least one sample is returned.
    """
    positions = int((reader.shapes[:, 0] * reader.shapes[:, 1]).sum())
    num_samples = max(1, int(reader.num_samples * min(1.0, max_positions / positions)))
    indices: list[int] = (np.arange(num_samples) * reader.num_samples // num_samples).tolist()
    return indices


def codec_id(codec: AnchorCodec) -> bytes:
    """Return 8 bytes that differ between codecs that decode differently."""
    digest = hashlib.sha256(codec.kind.encode())
    for name, value in codec_arrays(codec).items():
        digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.digest()[:ID_BYTES]


def codec_arrays(codec: Any) -> dict[str, NDArray[Any]]:
    """Return a codec's fields by name, those of tables under `<field>.<name>`."""
    arrays: dict[str, NDArray[Any]] = {}
    for field in dataclasses.fields(codec):
        value = getattr(codec, field.name)
        if dataclasses.is_dataclass(value):
            inner = codec_arrays(value)
            arrays.update({f"{field.name}.{name}": array for name, array in inner.items()})
        else:
            arrays[field.name] = np.asarray(value)
    return arrays


def pack_payload(payload: bytes, size_hw: tuple[int, int], *, level: int, identity: bytes) -> bytes:
    """Return the bitstream of one map's payload; `identity` is the codec's id."""
    section = Section(level=level, kind=Kind.CODED, size_hw=size_hw, payloads=(payload,))
    return pack_level(section, identity)


def decode_map(codec: AnchorCodec, data: bytes, *, level: int, identity: bytes) -> NDArray[Any]:
    """Return the map float32 [H, W, C] of a bitstream.

    Raises CacheError if it is damaged, of another level, or of another codec.
    """
    section = unpack_level(data, level=level, identity=identity)
    return codec.decode(section.payloads[0], section.size_hw)
