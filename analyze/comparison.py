"""Our codecs beside anchors: curves of rate and quality, and Bjøntegaard deltas between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyze.anchor_files import ANCHORS
from analyze.anchor_study import AnchorPoint, AnchorSplit, AnchorStudy, study_anchors
from analyze.bd import BdResult, bd_result
from analyze.curves import (
    IDEAL,
    Curve,
    anchor_level_curves,
    anchor_pyramid_curves,
    level_curve,
    pyramid_curve,
)
from analyze.results import AnalysisResult
from analyze.workbench import Workbench

OURS = "ours"
FAST_ANCHORS = ("uniform", "klt", "float16")
"""All but the video coders, which take minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Curves of one metric over one thing, ours first, and ours against each of the others."""

    what: str
    """`level 3`, or `all levels`."""
    curves: tuple[Curve, ...]
    deltas: tuple[BdResult, ...]


def anchor_study(bench: Workbench, names: Sequence[str]) -> AnchorStudy:
    """Measure the named anchors over the split, or take what was measured before."""
    detection = bench.detection
    split = AnchorSplit(
        train_cache=bench.request.cache.parent / "train",
        readers=bench.split.readers,
        num_images=bench.split.num_images,
        evaluator=bench.split.evaluator,
        as_cached=(lambda: detection.evaluation({}).accuracy) if detection else None,
        derivations=bench.derivations,
        device=bench.request.device,
    )
    return study_anchors({name: ANCHORS[name] for name in names}, split, bench.kept, bench.scratch)


def compare(result: AnalysisResult, points: Sequence[AnchorPoint]) -> tuple[Comparison, ...]:
    """Compare mAP over all levels, then PSNR level by level; without our curve, nothing.

    Where a combination with derived levels is there it stands for ours, as anchors send none of
    the levels that can be derived.
    """
    whole = [each for each in result.combinations if each.lmbda is not None]
    derived = [each for each in whole if "derived" in each.parts.values()]
    found = [_compared("all levels", pyramid_curve(derived or whole, OURS),
                       anchor_pyramid_curves(points))]  # fmt: skip
    for level in sorted({row.facts.level for row in result.rows}):
        curves = anchor_level_curves(points, level) if points else ()
        found.append(_compared(f"level {level}", level_curve(result.rows, level, OURS), curves))
    return tuple(each for each in found if each is not None)


def _compared(what: str, ours: Curve, anchors: Sequence[Curve]) -> Comparison | None:
    if not ours.points:
        return None
    real = [curve for curve in anchors if not curve.name.endswith(IDEAL)]
    deltas = [bd_result(anchor, ours) for anchor in anchors]
    return Comparison(what=what, curves=(ours, *real), deltas=tuple(deltas))
