"""The anchors by their names: ours, and one's own."""

from __future__ import annotations

from typing import Any

from analyze.anchors.contract import Anchor
from analyze.anchors.float16 import Float16Anchor
from analyze.anchors.klt import KltAnchor
from analyze.anchors.picture import av1_anchor, hevc_anchor
from analyze.anchors.uniform import UniformAnchor
from configs.errors import ConfigError, did_you_mean
from configs.own_code import is_own, load_own

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

_PARTS = ("name", "points", "unavailable", "fit")


def find_anchor(name: str) -> Anchor:
    """Return one of `ANCHORS`, or what one's own `package.module:name`, called, gives.

    Raises ConfigError if there is none of this name, or it is no `Anchor`.
    """
    if name in ANCHORS:
        return ANCHORS[name]
    if not is_own(name):
        raise ConfigError(
            f"--anchors {name}: there is none of this name{did_you_mean(name, ANCHORS)}: use "
            f"{', '.join(ANCHORS)}, your own package.module:name, or one of fast, all, none"
        )
    found: Any = load_own(name, "--anchors")()
    absent = [part for part in _PARTS if not hasattr(found, part)]
    if absent:
        raise ConfigError(
            f"--anchors: {name!r} gives a {type(found).__name__} without {', '.join(absent)}: "
            "name a class or function that gives an Anchor (see analyze.anchors.contract)"
        )
    anchor: Anchor = found
    return anchor
