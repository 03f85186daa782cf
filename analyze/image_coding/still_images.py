"""One colour image to bytes and back: JPEG and WebP files by Pillow, HEVC and AV1 by PyAV.

What is counted is what would be sent. Of JPEG and WebP that is the file. Of HEVC and AV1 it is the
coded packets with their parameter sets, and four bytes that say the image's size, which packets
cannot if it is odd; a HEIF or AVIF file around them would take some 300 bytes more.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from PIL import __version__ as pillow_version

from analyze.image_coding.picture_coding import (
    Encoder,
    decode_planes,
    encode_planes,
    usable_encoder,
)
from configs.errors import CacheError, ConfigError

_SIZE = struct.Struct("<HH")


class StillCodec(Protocol):
    """How one image becomes bytes, at a quality whose numbers are the codec's own."""

    @property
    def standard(self) -> str:
        """What tables call it."""

    @property
    def quality_name(self) -> str:
        """What its quality is called, e.g. `QP`."""

    @property
    def qualities(self) -> range:
        """All that it can be set to."""

    def unavailable(self) -> str | None:
        """Say in one line what has to be installed first; None: nothing."""

    def made_by(self) -> str:
        """Return library and version: others make other bytes. ConfigError if it is unavailable."""

    def encode(self, image: NDArray[Any], quality: int) -> bytes:
        """Return the bytes of an image, uint8 [H, W, 3]; ConfigError if its size is refused."""

    def decode(self, data: bytes) -> NDArray[Any]:
        """Return uint8 [H, W, 3]; CacheError if the bytes are damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PillowFile:
    """A file in one of Pillow's formats."""

    standard: str
    format: str
    """Pillow's name."""
    feature: str
    """Pillow's name of the library behind it."""
    options: Mapping[str, Any]

    @property
    def quality_name(self) -> str:
        """Pillow's word."""
        return "quality"

    @property
    def qualities(self) -> range:
        """What Pillow advises to use: above, files grow and images hardly change."""
        return range(1, 96)

    def unavailable(self) -> str | None:
        """Say so if this machine's Pillow was built without the library."""
        if features.check(self.feature):
            return None
        return (
            f"Pillow {pillow_version} here has no {self.standard}: "
            "pip install --force-reinstall --only-binary pillow pillow brings it"
        )

    def made_by(self) -> str:
        """Return Pillow's version and that of the library behind it."""
        return f"pillow {pillow_version}, {self.feature} {features.version(self.feature)}"

    def encode(self, image: NDArray[Any], quality: int) -> bytes:
        """Return a whole file; ConfigError if the format cannot hold so large an image."""
        content = io.BytesIO()
        try:
            Image.fromarray(image).save(content, self.format, quality=quality, **dict(self.options))
        except (OSError, ValueError) as error:
            raise _refused(self.standard, image, str(error)) from error
        return content.getvalue()

    def decode(self, data: bytes) -> NDArray[Any]:
        """Return uint8 [H, W, 3]; CacheError if the file is damaged."""
        try:
            with Image.open(io.BytesIO(data), formats=[self.format]) as image:
                return np.array(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise _damaged(self.standard, str(error)) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFrame:
    """One intra frame in 4:2:0, 8 bits, YCbCr of BT.601 in full range as in JPEG files."""

    standard: str
    encoders: tuple[Encoder, ...]
    """In order of preference."""
    quality_name: str
    qualities: range

    def unavailable(self) -> str | None:
        """Say what to install if this machine's PyAV lacks all the encoders."""
        try:
            usable_encoder(self.encoders)
        except ConfigError as error:
            return str(error)
        return None

    def made_by(self) -> str:
        """Return the encoder and the version of PyAV, whose wheels bring it."""
        import av

        return f"{usable_encoder(self.encoders).name} of av {av.__version__}"

    def encode(self, image: NDArray[Any], quality: int) -> bytes:
        """Return size and packets; the last row and column are repeated where a side is odd."""
        encoder = usable_encoder(self.encoders)
        height, width = image.shape[:2]
        if max(height, width) > 0xFFFF:
            raise _refused(self.standard, image, "sides are two bytes")
        rows, columns = _coded_hw((height, width), encoder)
        padded = np.pad(image, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")
        luma, *chroma = Image.fromarray(padded).convert("YCbCr").split()
        planes = [np.asarray(luma), *(np.asarray(plane.reduce(2)) for plane in chroma)]
        return _SIZE.pack(height, width) + encode_planes(planes, encoder, quality, 8)

    def decode(self, data: bytes) -> NDArray[Any]:
        """Return uint8 [H, W, 3]; CacheError if size or packets are damaged."""
        if len(data) < _SIZE.size:
            raise _damaged(self.standard, "its size is missing")
        encoder = usable_encoder(self.encoders)
        height, width = _SIZE.unpack_from(data)
        rows, columns = _coded_hw((height, width), encoder)
        luma, *chroma = (
            Image.fromarray(np.ascontiguousarray(plane))
            for plane in decode_planes(data[_SIZE.size :], encoder, (rows, columns), 8)
        )
        full = [plane.resize((columns, rows), Image.Resampling.BILINEAR) for plane in chroma]
        image = Image.merge("YCbCr", [luma, *full]).convert("RGB")
        return np.array(image.crop((0, 0, width, height)))


def _coded_hw(size_hw: tuple[int, int], encoder: Encoder) -> tuple[int, int]:
    rows, columns = (max(encoder.min_side_px, side + side % 2) for side in size_hw)
    return rows, columns


def _refused(standard: str, image: NDArray[Any], why: str) -> ConfigError:
    height, width = image.shape[:2]
    return ConfigError(
        f"{standard} refuses an image of {width} x {height} px ({why}): leave this anchor out"
    )


def _damaged(standard: str, why: str) -> CacheError:
    return CacheError(f"an image in {standard} is damaged ({why}): code it again")


def _x265(quantiser: int) -> dict[str, str]:
    # Otherwise as it comes; `info` would add 1.5 kB of settings.
    return {
        "preset": "medium",
        "x265-params": f"qp={quantiser}:keyint=1:ipratio=1:info=0:log-level=none",
    }


def _svt_av1(quantiser: int) -> dict[str, str]:
    return {"preset": "6", "crf": str(quantiser), "svtav1-params": "keyint=1"}


def _libaom(quantiser: int) -> dict[str, str]:
    return {"usage": "allintra", "cpu-used": "6", "crf": str(quantiser), "b": "0"}


def _frame_encoder(
    name: str, decoders: tuple[str, ...], min_side_px: int, options: Callable[[int], dict[str, str]]
) -> Encoder:
    return Encoder(
        name=name, decoders=decoders, format_prefix="yuv420p", min_side_px=min_side_px,
        options=options,
    )  # fmt: skip


_AV1_DECODERS = ("libdav1d", "libaom-av1")
JPEG = PillowFile(
    standard="JPEG",
    format="JPEG",
    feature="jpg",
    options={"subsampling": "4:2:0", "optimize": True},
)
WEBP = PillowFile(standard="WebP", format="WEBP", feature="webp", options={"method": 6})
HEVC_FRAME = KeyFrame(
    standard="HEVC",
    encoders=(_frame_encoder("libx265", ("hevc",), 16, _x265),),
    quality_name="QP",
    qualities=range(52),
)
AV1_FRAME = KeyFrame(
    standard="AV1",
    encoders=(
        _frame_encoder("libsvtav1", _AV1_DECODERS, 64, _svt_av1),
        _frame_encoder("libaom-av1", _AV1_DECODERS, 64, _libaom),
    ),
    quality_name="CRF",
    qualities=range(1, 64),
)
