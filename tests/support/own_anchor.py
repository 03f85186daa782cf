"""An anchor as a user would write one, in a file of its own."""

from __future__ import annotations

from pathlib import Path

MODULE = """
import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class WholeNumbersCodec:
    kind: ClassVar[str] = "whole numbers"
    num_channels: int

    @property
    def point(self):
        return "step 1"

    def encode(self, values):
        return zlib.compress(np.rint(values).astype("<i2").tobytes())

    def decode(self, payload, size_hw):
        values = np.frombuffer(zlib.decompress(payload), "<i2").reshape(*size_hw, -1)
        return values.astype(np.float32)


class WholeNumbers:
    name = "whole numbers"
    points = ({"step": 1},)

    def unavailable(self):
        return None

    def fit(self, reader, indices):
        return [WholeNumbersCodec(reader.info.num_channels)]
"""


def write_anchor(file: Path) -> str:
    """Write the module; return the name by which --anchors finds it in that folder."""
    file.write_text(MODULE, encoding="utf-8")
    return f"{file.stem}:WholeNumbers"
