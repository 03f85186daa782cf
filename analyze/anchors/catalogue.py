"""The anchors there are."""

from __future__ import annotations

from analyze.anchors.contract import Anchor
from analyze.anchors.float16 import Float16Anchor
from analyze.anchors.klt import KltAnchor
from analyze.anchors.picture import av1_anchor, hevc_anchor
from analyze.anchors.uniform import UniformAnchor

ANCHORS: dict[str, Anchor] = {
    "uniform": UniformAnchor(),
    "klt": KltAnchor(),
    "hevc-8": hevc_anchor(8),
    "hevc-10": hevc_anchor(10),
    "av1-8": av1_anchor(8),
    "av1-10": av1_anchor(10),
    "float16": Float16Anchor(),
}
"""Every anchor at its usual rate points, by the name that options use."""
