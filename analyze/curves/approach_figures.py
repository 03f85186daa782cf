"""Level-specific, random-level, fused, coarse to fine: bits at equal mAP, and loss. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from analyze.curves.rate_quality import Curve, CurvePoint, pyramid_curve, rising_hull
from analyze.facts.approaches import HOW_TO_TRAIN
from analyze.facts.results import AnalysisResult, Combination

_SLACK = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class ApproachFigures:
    """One way to code whole pyramids. Figures that there are no runs for are None."""

    approach: str
    train: str
    """The command that trains it."""
    combination: Combination | None = None
    """Its cheapest that has the equal mAP, or without detection the one of the common lambda."""
    equal_map: float | None = None
    """The highest mAP that every way reaches which has runs."""
    bits_per_pixel: float | None = None
    """At that mAP; of the original images."""
    is_interpolated: bool = False
    """Between two combinations; else they are those of `combination`."""
    map: float | None = None
    """Of `combination`: at least the equal one."""
    best_map: float | None = None
    lmbda: float | None = None
    """The lambda of `mse`, `bpp` and `loss`: the one that most ways have runs of."""
    mse: float | None = None
    """In the features' own units, over the values of all levels."""
    bpp: float | None = None
    """Real bits per position, over the positions of all levels."""
    loss: float | None = None
    """mse + lmbda * bpp."""


def approach_curves(combinations: Iterable[Combination]) -> dict[str, Curve]:
    """Return mAP against bits of each way that has whole pyramids, in the order of comparison.

    Where levels can be derived, they are: anchors send none of them either.
    """
    of_ways: dict[str, list[Combination]] = {approach: [] for approach in HOW_TO_TRAIN}
    for each in _comparable(combinations):
        of_ways.setdefault(each.approach, []).append(each)
    curves = {name: pyramid_curve(own, name) for name, own in of_ways.items()}
    return {name: curve for name, curve in curves.items() if curve.points}


def approach_figures(result: AnalysisResult) -> tuple[ApproachFigures, ...]:
    """Return all four, also those without runs; nothing where no runs make a whole pyramid."""
    comparable = _comparable(result.combinations)
    if not comparable:
        return ()
    curves = approach_curves(comparable)
    target = min(
        (max(point.quality for point in curve.points) for curve in curves.values()), default=None
    )
    lmbda = _common_lambda(comparable)
    return tuple(
        _figures(
            ApproachFigures(approach=approach, train=train, equal_map=target, lmbda=lmbda),
            [each for each in comparable if each.approach == approach],
            curves.get(approach),
            result,
        )
        for approach, train in HOW_TO_TRAIN.items()
    )


def _comparable(combinations: Iterable[Combination]) -> list[Combination]:
    whole = [each for each in combinations if each.is_planned and each.approach]
    derived = [each for each in whole if "derived" in each.parts.values()]
    left_out = {each.approach for each in derived}
    return [each for each in whole if each in derived or each.approach not in left_out]


def _common_lambda(combinations: Iterable[Combination]) -> float | None:
    """Return the lambda that most ways have, of several the middle one."""
    held = {(each.approach, each.lmbda) for each in combinations if each.lmbda is not None}
    count = Counter(lmbda for _, lmbda in held)
    most = sorted(lmbda for lmbda, number in count.items() if number == max(count.values()))
    return most[len(most) // 2] if most else None


def _figures(
    empty: ApproachFigures, own: list[Combination], curve: Curve | None, result: AnalysisResult
) -> ApproachFigures:
    """Return a way's figures; `empty` holds what all ways have in common."""
    loss = _smallest_loss(own, empty.lmbda, result)
    found = empty
    if loss is not None:
        found = replace(
            found, combination=loss.combination, mse=loss.mse, bpp=loss.bpp, loss=loss.value
        )
    if curve is None or empty.equal_map is None:
        return found
    found = replace(found, best_map=max(point.quality for point in curve.points))
    reached = _reached(curve, empty.equal_map)
    if reached is None:
        return found
    bits, point, is_interpolated = reached
    cheapest = next(each for each in own if (each.over_seeds or each.name) == point.label)
    return replace(
        found, combination=cheapest, bits_per_pixel=bits, is_interpolated=is_interpolated,
        map=point.quality,
    )  # fmt: skip


def _reached(curve: Curve, quality: float) -> tuple[float, CurvePoint, bool] | None:
    """Return the bits for a quality, the cheapest point that has it, and whether there is a less.

    log2(bits) is interpolated over quality along the rising points; nothing is extrapolated.
    """
    hull = rising_hull(curve.points)
    reaching = [place for place, point in enumerate(hull) if point.quality >= quality - _SLACK]
    if not reaching:
        return None
    above = hull[reaching[0]]
    if reaching[0] == 0 or above.quality <= quality + _SLACK:
        return above.bits_per_pixel, above, False
    below = hull[reaching[0] - 1]
    share = (quality - below.quality) / (above.quality - below.quality)
    low, high = math.log2(below.bits_per_pixel), math.log2(above.bits_per_pixel)
    return 2.0 ** (low + share * (high - low)), above, True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loss:
    combination: Combination
    mse: float
    bpp: float
    value: float


def _smallest_loss(
    own: Iterable[Combination], lmbda: float | None, result: AnalysisResult
) -> _Loss | None:
    losses = []
    for each in own:
        if lmbda is None or each.lmbda != lmbda or not result.num_positions:
            continue
        if each.mse is None or each.bits_per_pixel is None:
            continue
        bpp = each.bits_per_pixel * result.num_pixels / result.num_positions
        losses.append(_Loss(combination=each, mse=each.mse, bpp=bpp, value=each.mse + lmbda * bpp))
    return min(losses, key=lambda each: each.value, default=None)
