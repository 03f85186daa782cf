"""Anchor: channels tiled into one grey picture, coded by a picture codec (HEVC intra, AV1).

Tiling as in Choi and Bajić (ICIP 2018, arXiv:1802.03931): 8 or 10 bits over the range of the map.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from analyze.image_coding.picture_coding import (
    AV1,
    ENCODERS,
    HEVC,
    Encoder,
    decode_picture,
    encode_picture,
    usable_encoder,
)
from configs.errors import CacheError, ConfigError
from data.reading.level_reader import LevelReader


def grid_of(num_channels: int) -> tuple[int, int]:
    """Return (rows, columns), as near to a square as holds all channels: 256 -> (16, 16)."""
    columns = math.isqrt(num_channels - 1) + 1
    return -(-num_channels // columns), columns


def picture_hw(size_hw: tuple[int, int], num_channels: int, min_side_px: int) -> tuple[int, int]:
    """Return the picture's (height, width) in px: even, as 4:2:0 needs, and at least that large."""
    rows, columns = grid_of(num_channels)
    height, width = (
        max(min_side_px, side + side % 2) for side in (rows * size_hw[0], columns * size_hw[1])
    )
    return height, width


def tile(values: NDArray[Any], min_side_px: int) -> NDArray[Any]:
    """Return the picture [h, w] of a map [H, W, C], channel 0 top left, row by row.

    Free tiles and the padding to codable sides repeat what is beside them, which costs few bits.
    """
    height, width, num_channels = values.shape
    rows, columns = grid_of(num_channels)
    free = rows * columns - num_channels
    channels = np.pad(values.transpose(2, 0, 1), ((0, free), (0, 0), (0, 0)), mode="edge")
    tiles = channels.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    picture = tiles.reshape(rows * height, columns * width)
    padded = picture_hw((height, width), num_channels, min_side_px)
    missing = [(0, side - held) for side, held in zip(padded, picture.shape, strict=True)]
    return np.pad(picture, missing, mode="edge")


def untile(picture: NDArray[Any], size_hw: tuple[int, int], num_channels: int) -> NDArray[Any]:
    """Return the map [H, W, C] of a picture that `tile` made."""
    height, width = size_hw
    rows, columns = grid_of(num_channels)
    tiles = picture[: rows * height, : columns * width].reshape(rows, height, columns, width)
    channels = tiles.transpose(0, 2, 1, 3).reshape(rows * columns, height, width)
    return np.ascontiguousarray(channels[:num_channels].transpose(1, 2, 0))


_RANGE = struct.Struct("<ff")


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureCodec:
    """All channels share one range, smallest to largest value of the map, sent as two float32.

    With one range the codec's quantiser is the same for every channel, so none is coded finer than
    another; and nothing clips.
    """

    kind: ClassVar[str] = "picture"

    encoder: str
    bit_depth: int
    quantiser: int
    num_channels: int

    @property
    def point(self) -> str:
        """The rate point in words."""
        return f"quantiser {self.quantiser} of {self.encoder}"

    def encode(self, values: NDArray[Any]) -> bytes:
        """Return range and picture of one map, float32 [H, W, C].

        Raises ConfigError if the encoder refuses the picture's size.
        """
        low, high = np.float32(values.min()), np.float32(values.max())
        scale = (2**self.bit_depth - 1) / (float(high) - float(low)) if high > low else 0.0
        samples = np.rint((values - low) * np.float32(scale)).astype(np.uint16)
        encoder = ENCODERS[self.encoder]
        picture = tile(samples, encoder.min_side_px)
        coded = encode_picture(picture, encoder, self.quantiser, self.bit_depth)
        return _RANGE.pack(low, high) + coded

    def decode(self, payload: bytes, size_hw: tuple[int, int]) -> NDArray[Any]:
        """Return float32 [H, W, C]; raises CacheError if the payload is damaged."""
        if len(payload) < _RANGE.size:
            raise CacheError("a tiled picture has lost its range: compress the features again")
        low, high = _RANGE.unpack_from(payload)
        encoder = ENCODERS[self.encoder]
        picture = decode_picture(
            payload[_RANGE.size :],
            encoder,
            picture_hw(size_hw, self.num_channels, encoder.min_side_px),
            self.bit_depth,
        )
        samples = untile(picture, size_hw, self.num_channels).astype(np.float32)
        return samples * np.float32((high - low) / (2**self.bit_depth - 1)) + np.float32(low)


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureAnchor:
    """One codec for each quantiser."""

    standard: str
    encoders: tuple[Encoder, ...]
    """In order of preference."""
    bit_depth: int
    quantisers: tuple[int, ...]

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.standard}, {self.bit_depth} bit"

    @property
    def points(self) -> tuple[dict[str, Any], ...]:
        """Each rate point's settings; ConfigError if it is unavailable."""
        encoder = usable_encoder(self.encoders)
        same = {"encoder": encoder.name, "bit_depth": self.bit_depth}
        return tuple({**same, "quantiser": quantiser} for quantiser in self.quantisers)

    def unavailable(self) -> str | None:
        """Say what to install if this machine's PyAV lacks all the encoders."""
        try:
            usable_encoder(self.encoders)
        except ConfigError as error:
            return f"{self.name}: {error}"
        return None

    def fit(self, reader: LevelReader, _indices: Sequence[int]) -> tuple[PictureCodec, ...]:
        """Take the level's number of channels; nothing is learned from the samples.

        Raises ConfigError if it is unavailable.
        """
        encoder = usable_encoder(self.encoders)
        return tuple(
            PictureCodec(
                encoder=encoder.name,
                bit_depth=self.bit_depth,
                quantiser=quantiser,
                num_channels=reader.info.num_channels,
            )
            for quantiser in self.quantisers
        )


def hevc_anchor(
    bit_depth: int, quantisers: tuple[int, ...] = (22, 28, 34, 40, 46)
) -> PictureAnchor:
    """Return HEVC intra of 8 or 10 bits; `quantisers` are x265's QP, 0 to 51."""
    return PictureAnchor(
        standard="HEVC intra", encoders=HEVC, bit_depth=bit_depth, quantisers=quantisers
    )


def av1_anchor(bit_depth: int, quantisers: tuple[int, ...] = (20, 32, 44, 52, 60)) -> PictureAnchor:
    """Return AV1 of 8 or 10 bits; `quantisers` are SVT-AV1's (or libaom's) CRF, 0 to 63."""
    return PictureAnchor(
        standard="AV1 intra", encoders=AV1, bit_depth=bit_depth, quantisers=quantisers
    )
