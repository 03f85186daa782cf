"""The anchors by their names: ours, and one's own."""

from __future__ import annotations

from typing import Any

from analyze.anchors.contract import Anchor
from analyze.anchors.float16 import Float16Anchor
from analyze.anchors.klt import KltAnchor
from analyze.anchors.names import check_anchor
from analyze.anchors.picture import av1_anchor, hevc_anchor
from analyze.anchors.uniform import UniformAnchor
from analyze.image_coding.image_anchors import (
    ImageAnchor,
    image_av1,
    image_hevc,
    image_jpeg,
    image_webp,
)
from configs.errors import ConfigError
from configs.own_code import is_own, load_own, own_code

ANCHORS: dict[str, Anchor | ImageAnchor] = {
    "uniform": UniformAnchor(),
    "klt": KltAnchor(),
    "hevc-8": hevc_anchor(8),
    "hevc-10": hevc_anchor(10),
    "av1-8": av1_anchor(8),
    "av1-10": av1_anchor(10),
    "float16": Float16Anchor(),
    "image-jpeg": image_jpeg(),
    "image-webp": image_webp(),
    "image-hevc": image_hevc(),
    "image-av1": image_av1(),
}
"""Every anchor at its usual rate points, by the name that options use."""

_PARTS = ("name", "points", "unavailable", "fit")


def find_anchor(name: str) -> Anchor | ImageAnchor:
    """Return one of `ANCHORS`, or what one's own `package.module:name`, called, gives.

    Raises ConfigError if there is none of this name, or one's own fails or is neither an `Anchor`
    nor an `ImageAnchor`.
    """
    check_anchor(name)
    if not is_own(name):
        return ANCHORS[name]
    make = load_own(name, "--anchors")
    with own_code(f"--anchors: {name!r} cannot be made"):
        found: Any = make()
    if isinstance(found, ImageAnchor):
        return found
    absent = [part for part in _PARTS if not hasattr(found, part)]
    if absent:
        raise ConfigError(
            f"--anchors: {name!r} gives a {type(found).__name__} without {', '.join(absent)}: "
            "name a class or function that gives an Anchor (see analyze.anchors.contract)"
        )
    anchor: Anchor = found
    return anchor
