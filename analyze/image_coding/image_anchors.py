"""Anchors that code the image instead of its features: what a user would do without us.

The sender codes an image in one of two sizes. As large as it is, the receiver's detector resizes it
as ever. As large as the detector's input, the sender has resized it, just as the detector would
have, and the detector does not resize it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from analyze.image_coding.still_images import AV1_FRAME, HEVC_FRAME, JPEG, WEBP, StillCodec
from configs.errors import ConfigError

Size = Literal["input", "original"]
SIZES: tuple[Size, ...] = ("input", "original")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageAnchor:
    """One codec at a few qualities, for images of both sizes. ConfigError for others than it has.

    The whole detector runs on what was decoded: there is a mAP, and no error of features.
    """

    codec: StillCodec
    qualities: tuple[int, ...]
    """From poor to good, or from good to poor."""
    sizes: tuple[Size, ...] = SIZES

    def __post_init__(self) -> None:
        allowed = self.codec.qualities
        wrong = [quality for quality in self.qualities if quality not in allowed]
        if wrong or not self.qualities:
            given = ", ".join(map(str, wrong)) or "none"
            raise ConfigError(
                f"{self.name}: {self.codec.quality_name} is {allowed[0]} to {allowed[-1]}, "
                f"not {given}: correct the anchor's qualities"
            )
        if not self.sizes or (other := [size for size in self.sizes if size not in SIZES]):
            given = ", ".join(map(str, other)) if self.sizes else "none"
            raise ConfigError(f"{self.name}: sizes are {' and '.join(SIZES)}, not {given}")

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"image, {self.codec.standard}"

    def title(self, size: Size) -> str:
        """Return what tables call the images of one size."""
        return f"{self.name}, {size} size"

    def point(self, quality: int) -> str:
        """Return the rate point in words."""
        return f"{self.codec.quality_name} {quality}"

    @property
    def points(self) -> tuple[dict[str, Any], ...]:
        """Each rate point's settings; ConfigError if it is unavailable."""
        made_by = self.codec.made_by()
        return tuple(
            {"codec": made_by, "size": size, "quality": quality}
            for size in self.sizes
            for quality in self.qualities
        )

    def unavailable(self) -> str | None:
        """Say in one line what has to be installed first; None: nothing."""
        reason = self.codec.unavailable()
        return None if reason is None else f"{self.name}: {reason}"


def image_jpeg(qualities: tuple[int, ...] = (10, 20, 35, 55, 75)) -> ImageAnchor:
    """Return JPEG files; `qualities` are Pillow's, 1 to 95."""
    return ImageAnchor(codec=JPEG, qualities=qualities)


def image_webp(qualities: tuple[int, ...] = (1, 10, 25, 45, 70)) -> ImageAnchor:
    """Return WebP files; `qualities` are Pillow's, 1 to 95."""
    return ImageAnchor(codec=WEBP, qualities=qualities)


def image_hevc(quantisers: tuple[int, ...] = (46, 42, 38, 34, 30)) -> ImageAnchor:
    """Return HEVC intra by x265; `quantisers` are its QP, 0 to 51."""
    return ImageAnchor(codec=HEVC_FRAME, qualities=quantisers)


def image_av1(quantisers: tuple[int, ...] = (60, 53, 46, 39, 32)) -> ImageAnchor:
    """Return AV1 intra by SVT-AV1 (or libaom); `quantisers` are its CRF, 1 to 63."""
    return ImageAnchor(codec=AV1_FRAME, qualities=quantisers)
