"""What the bytes of a level stand for: an affine code per channel, `byte * scale + offset`."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

GREATEST_BYTE = 255


def _unpacked(value: object) -> object:
    """Return the numbers of base64 text, little-endian float32; anything else as it is."""
    if not isinstance(value, str):
        return value
    return tuple(np.frombuffer(base64.b64decode(value, validate=True), "<f4").tolist())


_PerChannel = Annotated[tuple[float, ...], BeforeValidator(_unpacked)]


@dataclass(frozen=True, kw_only=True)
class ByteCode:
    """The numbers, each of them a float32, one per channel of a level.

    Product and sum are rounded to float32 one after the other, so that every reader on every
    device gets the same bits.
    """

    scale: _PerChannel
    offset: _PerChannel

    @classmethod
    def of_ranges(cls, minimum: NDArray[Any], maximum: NDArray[Any]) -> ByteCode:
        """Return the code whose 256 values are spread evenly from minimum to maximum, float [C].

        A channel of one value alone, or nearly so, gets steps of 1.
        """
        offset = minimum.astype(np.float32)
        extent = maximum.astype(np.float64) - offset
        scale = (extent / GREATEST_BYTE).astype(np.float32)
        # What lies below the normal numbers has few digits: the range's end would be missed.
        scale[scale < np.finfo(np.float32).tiny] = 1
        return cls(scale=tuple(scale.tolist()), offset=tuple(offset.tolist()))

    @cached_property
    def scales(self) -> NDArray[np.float32]:
        """`scale`, float32 [C]."""
        return np.array(self.scale, dtype=np.float32)

    @cached_property
    def offsets(self) -> NDArray[np.float32]:
        """`offset`, float32 [C]."""
        return np.array(self.offset, dtype=np.float32)

    def decoded(self, stored: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the values of bytes [..., C], float32 [..., C]."""
        values = stored * self.scales
        values += self.offsets
        return values

    def problem(self, num_channels: int) -> str | None:
        """Say in words why it is no code of so many channels; None if it is one."""
        if not len(self.scale) == len(self.offset) == num_channels:
            return f"is of {len(self.scale)} and {len(self.offset)} channels, not {num_channels}"
        if not (np.isfinite(self.offsets).all() and np.isfinite(self.scales).all()):
            return "is not finite"
        return None if (self.scales > 0).all() else "has a scale that is not above 0"

    def to_json(self) -> dict[str, str]:
        """Return what the manifest holds: base64 of little-endian float32, so no bit is lost."""
        return {
            "scale": base64.b64encode(self.scales.astype("<f4").tobytes()).decode(),
            "offset": base64.b64encode(self.offsets.astype("<f4").tobytes()).decode(),
        }
