"""One picture as one HEVC intra or AV1 key frame, through PyAV (FFmpeg's libraries)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import CacheError, ConfigError

_THREADS = Path("/proc/self/task")
_RATE = Fraction(25)  # of no consequence for one picture, but encoders want one


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """One of FFmpeg's encoders, what reads its streams, and how it is set for a quality."""

    name: str
    decoders: tuple[str, ...]
    """In order of preference."""
    format_prefix: str
    """`gray` codes luma alone; encoders without it get `yuv420p` with flat chroma."""
    min_side_px: int
    """Smallest even side of a picture that it codes without an error, or worse."""
    options: Callable[[int], dict[str, str]]
    """Quantiser -> FFmpeg's options."""

    def pixel_format(self, bit_depth: int) -> str:
        """Return FFmpeg's name for pictures of 8 or 10 bits."""
        return self.format_prefix + ("" if bit_depth == 8 else "10le")


def _x265(quantiser: int) -> dict[str, str]:
    # Constant QP without psycho-visual or adaptive quantisation: squared error is what is measured.
    # `ipratio` 1 gives the picture the QP that is named; `info` would add 1.5 kB of settings.
    parameters = (
        f"qp={quantiser}:ipratio=1:keyint=1:aq-mode=0:psy-rd=0:psy-rdoq=0:info=0:log-level=none"
    )
    return {"preset": "medium", "x265-params": parameters}


def _svt_av1(quantiser: int) -> dict[str, str]:
    parameters = "keyint=1:aq-mode=0:tune=1"  # tune 1: PSNR
    return {"preset": "4", "crf": str(quantiser), "svtav1-params": parameters}


def _libaom(quantiser: int) -> dict[str, str]:
    return {
        "usage": "allintra", "cpu-used": "4", "crf": str(quantiser), "b": "0", "aq-mode": "0",
        "aom-params": "tune=psnr:deltaq-mode=0:enable-chroma-deltaq=0",
    }  # fmt: skip


HEVC = (
    Encoder(
        name="libx265",
        decoders=("hevc",),
        format_prefix="gray",
        min_side_px=16,
        options=_x265,
    ),
)
# SVT-AV1 before 4 crashes on smaller ones, or never returns.
_AV1_MIN_SIDE_PX = 64
_AV1_DECODERS = ("libdav1d", "libaom-av1")
# A side has 16 bits. SVT-AV1 codes the first 4,464 px of 70,000, and says nothing of it.
_AV1_MOST_PX = 2**16 - 1
AV1 = (
    Encoder(
        name="libsvtav1",
        decoders=_AV1_DECODERS,
        format_prefix="yuv420p",
        min_side_px=_AV1_MIN_SIDE_PX,
        options=_svt_av1,
    ),
    Encoder(
        name="libaom-av1",
        decoders=_AV1_DECODERS,
        format_prefix="yuv420p",
        min_side_px=_AV1_MIN_SIDE_PX,
        options=_libaom,
    ),
)
ENCODERS = {encoder.name: encoder for encoder in (*HEVC, *AV1)}


def usable_encoder(candidates: Sequence[Encoder]) -> Encoder:
    """Return the first that this machine has, with a decoder; ConfigError says what to install."""
    try:
        import av
    except ImportError as error:
        raise ConfigError(f"PyAV cannot be used ({error}): pip install 'av>=15'") from error
    held = av.codec.codecs_available
    for encoder in candidates:
        if encoder.name in held and any(name in held for name in encoder.decoders):
            return encoder
    names = " or ".join(encoder.name for encoder in candidates)
    raise ConfigError(
        f"PyAV {av.__version__} here has no {names} with a decoder: "
        "pip install --force-reinstall --only-binary av 'av>=15' brings one that has"
    )


def encode_picture(
    picture: NDArray[Any], encoder: Encoder, quantiser: int, bit_depth: int
) -> bytes:
    """Return the bytes of a grey picture, uint16 [h, w], of 8 or 10 bits; parameter sets included.

    Raises ConfigError if the encoder refuses its size.
    """
    height, width = picture.shape
    neutral = np.full((-(-height // 2), -(-width // 2)), 1 << (bit_depth - 1), dtype=np.uint16)
    chroma = [] if encoder.format_prefix == "gray" else [neutral, neutral]
    return encode_planes([picture, *chroma], encoder, quantiser, bit_depth)


def decode_picture(
    data: bytes, encoder: Encoder, size_hw: tuple[int, int], bit_depth: int
) -> NDArray[Any]:
    """Return the picture, uint16 [h, w], of what `encode_picture` returned.

    Raises CacheError if the bytes are damaged, or hold anything else.
    """
    return decode_planes(data, encoder, size_hw, bit_depth)[0].astype(np.uint16)


def encode_planes(
    planes: Sequence[NDArray[Any]], encoder: Encoder, quantiser: int, bit_depth: int
) -> bytes:
    """Return the packets of a picture's planes, luma [h, w] first; parameter sets included.

    Of `yuv420p`, chroma is [ceil(h / 2), ceil(w / 2)] twice. Raises ConfigError if the encoder
    refuses the size.
    """
    import av

    # SVT-AV1 otherwise prints its settings for every picture.
    os.environ.setdefault("SVT_LOG", "1")
    height, width = planes[0].shape
    if encoder.decoders == _AV1_DECODERS and max(height, width) > _AV1_MOST_PX:
        raise _refused(encoder, height, width, f"AV1 has at most {_AV1_MOST_PX} px a side")
    frame = av.VideoFrame(width, height, encoder.pixel_format(bit_depth))
    for plane, values in zip(frame.planes, planes, strict=True):
        _fill(plane, values, bit_depth)
    frame.pts = 0
    context: Any = av.CodecContext.create(encoder.name, "w")
    context.width, context.height = width, height
    context.pix_fmt = encoder.pixel_format(bit_depth)
    context.time_base, context.framerate = 1 / _RATE, _RATE
    context.options = encoder.options(quantiser)
    try:
        with _same_priority():
            context.open()
        packets = [*context.encode(frame), *context.encode(None)]
    except av.FFmpegError as error:
        raise _refused(encoder, height, width, str(error.strerror)) from error
    return b"".join(bytes(packet) for packet in packets)


def _refused(encoder: Encoder, height: int, width: int, reason: str) -> ConfigError:
    return ConfigError(
        f"{encoder.name} refuses a picture of {width} x {height} px ({reason}): "
        "leave this anchor out"
    )


@contextmanager
def _same_priority() -> Iterator[None]:
    """Give this thread, and those begun inside, the priority that this one had before.

    SVT-AV1 in root's hands makes the thread that opens it, and all of its own, real-time ones
    (SCHED_FIFO at 99), and leaves the former so for good: what it computes after, and whatever
    process it starts, would keep all others from its cores.
    """
    if not hasattr(os, "sched_getscheduler"):  # no Linux: nor does the encoder do it there
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    others = set(_THREADS.iterdir())
    try:
        yield
    finally:
        begun = set(_THREADS.iterdir()) - others
        for thread in (0, *(int(entry.name) for entry in begun)):
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(thread, policy, parameters)


def decode_planes(
    data: bytes, encoder: Encoder, size_hw: tuple[int, int], bit_depth: int
) -> list[NDArray[Any]]:
    """Return the planes of what `encode_planes` returned, uint8 or uint16 each, luma [h, w] first.

    Raises CacheError if the bytes are damaged, or hold anything else.
    """
    import av

    decoder = next(name for name in encoder.decoders if name in av.codec.codecs_available)
    context: Any = av.CodecContext.create(decoder, "r")
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except (av.FFmpegError, ValueError) as error:
        raise _damaged(encoder, str(error)) from error
    if len(frames) != 1:
        raise _damaged(encoder, f"{len(frames)} pictures, not one")
    (frame,) = frames
    found = (frame.height, frame.width, frame.format.name)
    if found != (*size_hw, encoder.pixel_format(bit_depth)):
        raise _damaged(encoder, f"{frame.width} x {frame.height} px {frame.format.name}")
    return [_rows(plane, bit_depth)[:, : plane.width] for plane in frame.planes]


def _rows(plane: Any, bit_depth: int) -> NDArray[Any]:
    """Return a plane's memory as rows, which may be longer than the picture is wide."""
    dtype = np.uint8 if bit_depth == 8 else np.dtype("<u2")
    return np.frombuffer(plane, dtype=dtype).reshape(plane.height, -1)


def _fill(plane: Any, values: NDArray[Any], bit_depth: int) -> None:
    rows = _rows(plane, bit_depth)
    padding = ((0, 0), (0, rows.shape[1] - values.shape[1]))
    plane.update(np.pad(values.astype(rows.dtype), padding).tobytes())


def _damaged(encoder: Encoder, problem: str) -> CacheError:
    return CacheError(
        f"a picture of {encoder.name} is damaged ({problem}): compress the features again"
    )
