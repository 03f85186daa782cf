"""What uneven lambdas save: bits at equal mAP against the same lambda in every level. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from analyze.curves.hull import lower_hull


@dataclass(frozen=True, kw_only=True, slots=True)
class RateMap:
    """One combination as it was measured."""

    bits_per_pixel: float
    map: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """1 - bits / bits of the same lambda everywhere, at the same mAP; negative: a loss."""

    fraction: float | None
    """None: cannot be said, see `why`."""
    same_lambda_bits_per_pixel: float | None
    """What the same lambda everywhere needs for that mAP, interpolated."""
    at_least: bool = False
    """The mAP is above all of the same lambda's, and `fraction` is against the highest of them."""
    why: str


def saving(same_lambda: Iterable[RateMap], chosen: RateMap) -> Saving:
    """Return what `chosen` saves against the curve of combinations of one lambda each.

    log2(bits) is interpolated over mAP, linearly along the curve's own upper hull in that plane
    (as generous to the same lambda as its points allow: neighbours may be time-shared). Nothing is
    extrapolated: below the curve's mAP there is no figure, and above it one for fewer bits alone,
    against the highest point: better for less, so the saving is at least that.
    """
    points = [point for point in same_lambda if point.bits_per_pixel > 0]
    if not points:
        return _unknown("no lambda has every level")
    if chosen.bits_per_pixel <= 0:
        return _unknown("the chosen combination needs no bits")
    bits = np.log2([point.bits_per_pixel for point in points])
    accuracy = np.array([point.map for point in points])
    hull = lower_hull(bits, -accuracy)
    lowest, highest = accuracy[hull[0]], accuracy[hull[-1]]
    dearest = 2.0 ** float(bits[hull[-1]])
    if chosen.map > highest and chosen.bits_per_pixel < dearest:
        return Saving(
            fraction=1 - chosen.bits_per_pixel / dearest,
            same_lambda_bits_per_pixel=dearest,
            why=f"at mAP {highest:.4f}, the highest of {len(points)} combinations of one lambda "
            f"each, where the chosen one has {chosen.map:.4f}",
            at_least=True,
        )
    if not lowest <= chosen.map <= highest:
        side = "below" if chosen.map < lowest else "above"
        return _unknown(
            f"mAP {chosen.map:.4f} is {side} what one lambda for all levels reaches, "
            f"{lowest:.4f} to {highest:.4f}"
        )
    same = 2.0 ** float(np.interp(chosen.map, accuracy[hull], bits[hull]))
    return Saving(
        fraction=1 - chosen.bits_per_pixel / same,
        same_lambda_bits_per_pixel=same,
        why=f"at mAP {chosen.map:.4f}, log2(bits) interpolated over {len(hull)} of {len(points)} "
        "combinations of one lambda each",
    )


def _unknown(why: str) -> Saving:
    return Saving(fraction=None, same_lambda_bits_per_pixel=None, why=why)
