"""Anchors of images: their rate points, and settings that no codec has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from analyze.anchors.catalogue import find_anchor
from analyze.image_coding.image_anchors import (
    ImageAnchor,
    Size,
    image_av1,
    image_hevc,
    image_jpeg,
    image_webp,
)
from analyze.image_coding.still_images import JPEG
from configs.errors import ConfigError


def test_each_quality_is_a_point_of_both_sizes() -> None:
    anchor = image_jpeg((20, 60))
    assert [(each["size"], each["quality"]) for each in anchor.points] == [
        ("input", 20), ("input", 60), ("original", 20), ("original", 60),
    ]  # fmt: skip
    assert anchor.title("input") == "image, JPEG, input size"
    assert anchor.point(20) == "quality 20"


@pytest.mark.parametrize(
    ("make", "qualities", "message"),
    [
        (image_jpeg, (50, 101, 0), "image, JPEG: quality is 1 to 95, not 101, 0: correct"),
        (image_webp, (), "image, WebP: quality is 1 to 95, not none: correct"),
        (image_hevc, (52,), "image, HEVC: QP is 0 to 51, not 52: correct"),
        (image_av1, (0,), "image, AV1: CRF is 1 to 63, not 0: correct"),
    ],
)
def test_quality_that_a_codec_does_not_have_is_refused_in_one_line(
    make: Callable[[tuple[int, ...]], ImageAnchor], qualities: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(qualities)


@pytest.mark.parametrize(("sizes", "given"), [((), "none"), (("half",), "half")])
def test_size_that_there_is_not_is_refused(sizes: tuple[Size, ...], given: str) -> None:
    with pytest.raises(ConfigError, match=f"sizes are input and original, not {given}"):
        ImageAnchor(codec=JPEG, qualities=(50,), sizes=sizes)


def test_qualities_of_ones_own_come_by_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_images.py").write_text(
        "from analyze.image_coding.image_anchors import image_jpeg\n\n\n"
        "def poor():\n    return image_jpeg((1, 2))\n"
    )
    assert find_anchor("own_images:poor") == image_jpeg((1, 2))
