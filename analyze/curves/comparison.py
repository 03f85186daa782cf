"""Our codecs beside anchors: curves of rate and quality, and Bjøntegaard deltas between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyze.anchors.anchor_points import AnchorPoint
from analyze.curves.approach_figures import approach_curves
from analyze.curves.bjontegaard import BdResult, bd_result
from analyze.curves.rate_quality import (
    IDEAL,
    Curve,
    anchor_level_curves,
    anchor_pyramid_curves,
    level_curve,
    pyramid_curve,
)
from analyze.facts.approaches import OURS as OURS_APPROACHES
from analyze.facts.results import AnalysisResult

OURS = "ours"
BY_APPROACH = "all levels, by approach"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Curves of one metric over one thing, and each of ours against each of the anchors."""

    what: str
    """`level 3`, `all levels`, or `BY_APPROACH`: one curve for each way to code a pyramid."""
    ours: tuple[Curve, ...]
    """One; if the runs are of several models or distortions, one for each of them."""
    anchors: tuple[Curve, ...]
    """With real rates."""
    deltas: tuple[BdResult, ...]


def compare(result: AnalysisResult, points: Sequence[AnchorPoint]) -> tuple[Comparison, ...]:
    """Compare mAP over all levels, then PSNR level by level; without our curve, nothing.

    Where a combination with derived levels is there it stands for ours, as anchors send none of
    the levels that can be derived.
    """
    learners = dict.fromkeys(row.learner for row in result.rows)
    whole = [each for each in result.combinations if each.is_planned]
    shared = {each.learner for each in whole if each.approach not in ("", *OURS_APPROACHES)}
    derived = [each for each in whole if "derived" in each.parts.values()]
    pyramids = [
        pyramid_curve(
            [each for each in derived or whole if each.learner == learner],
            learner if learner in shared else _name(learner),
        )
        for learner in dict.fromkeys([*learners, *(each.learner for each in whole)])
    ]
    anchors = anchor_pyramid_curves(points)
    found = [_compared("all levels", pyramids, anchors), _by_approach(result, anchors)]
    curves = dict.fromkeys(row.curve for row in result.rows)
    for level in sorted({row.facts.level for row in result.rows}):
        ours = [
            level_curve((row for row in result.rows if row.curve == curve), level, _name(curve))
            for curve in curves
        ]
        of_level = anchor_level_curves(points, level) if points else ()
        found.append(_compared(f"level {level}", ours, of_level))
    return tuple(each for each in found if each is not None)


def _by_approach(result: AnalysisResult, anchors: Sequence[Curve]) -> Comparison | None:
    """Compare ours, coarse to fine where there is such a pyramid, with other ways and anchors."""
    curves = approach_curves(result.combinations)
    mine = next((curves[name] for name in reversed(OURS_APPROACHES) if name in curves), None)
    if mine is None or len(curves) < 2:
        return None
    others = [curve for curve in curves.values() if curve is not mine]
    return _compared(BY_APPROACH, [mine], [*others, *anchors])


def _name(curve: str) -> str:
    return f"{OURS}, {curve}" if curve else OURS


def _compared(what: str, ours: Sequence[Curve], anchors: Sequence[Curve]) -> Comparison | None:
    ours = [curve for curve in ours if curve.points]
    if not ours:
        return None
    return Comparison(
        what=what,
        ours=tuple(ours),
        anchors=tuple(curve for curve in anchors if not curve.name.endswith(IDEAL)),
        deltas=tuple(bd_result(anchor, curve) for curve in ours for anchor in anchors),
    )
