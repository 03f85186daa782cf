"""A list of anchors: groups beside names, each anchor once, and one line for what there is not."""

from __future__ import annotations

import pytest

from analyze.anchors.names import ANCHOR_NAMES, FAST_ANCHORS, anchors_of
from configs.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", ()),
        ("all", ANCHOR_NAMES),
        ("klt, uniform", ("klt", "uniform")),
        ("fast,my_anchors:Steps", (*FAST_ANCHORS, "my_anchors:Steps")),
        ("images,klt", ("image-jpeg", "image-webp", "image-hevc", "image-av1", "klt")),
        (
            "hevc-8,klt,fast,klt",
            ("hevc-8", "klt", "uniform", "float16", "image-jpeg", "image-av1"),
        ),
    ],
)
def test_groups_are_spelt_out_and_each_anchor_is_there_once(
    text: str, names: tuple[str, ...]
) -> None:
    assert anchors_of(text) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast,none", "--anchors fast,none: none is for no anchors at all: write it alone"),
        ("fast,", "--anchors : there is none of this name: use "),
        ("fats", "--anchors fats: there is none of this name: did you mean 'fast'"),
    ],
)
def test_what_there_is_not_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        anchors_of(text)
