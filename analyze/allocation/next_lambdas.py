"""Which lambda to train next, level by level: in the largest gap of a curve, or at a target."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analyze.allocation.allocate import AllocationFinding
from analyze.allocation.choice import drop_on_all, dropped_error, measured_drops
from analyze.allocation.lagrangian import Allocated
from analyze.allocation.search import Target
from analyze.curves.rate_quality import pareto_front
from analyze.facts.candidates import learner_labels
from analyze.facts.results import Found
from analyze.facts.sent_parts import MeasuredRun
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.split import Split
from configs.errors import ConfigError

_DECADE = 10.0
_STEP = math.sqrt(10.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LambdaPoint:
    """One run of a level."""

    lmbda: float
    bits_per_position: float
    """Bits per position of the level's own map, the BPP that training weighs with lambda."""
    mse: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelTarget:
    """What the level shall reach: "bits" per position of its own map, or "mse"."""

    kind: Literal["bits", "mse"]
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """A lambda to train next."""

    level: int
    lmbda: float
    why: str

    @property
    def command(self) -> str:
        """Return the complete command, to which the user's own --config belongs."""
        return f"train-level --level {self.level} --lambda {self.lmbda:g}"


def suggest_lambda(
    level: int, points: Sequence[LambdaPoint], target: LevelTarget | None = None
) -> Suggestion:
    """Return where the next lambda should lie, rounded to three digits.

    Without target: the middle, in log lambda, of the two neighbouring lambdas that lie farthest
    apart on the curve, measured in (ln bits, ln MSE). With it: the lambda that reaches the target,
    ln lambda interpolated along the curve's Pareto front; beyond its ends extrapolated by
    dMSE/dBPP = -lambda, the condition of a minimum of J = MSE + lambda * BPP: near the end's point
    (R, D) the curve is taken as D (r/R)^-e with e = lambda R / D, of which the slope anywhere gives
    lambda, bounded to a factor of ten beyond the end's own. Raises ConfigError if there is no run
    with both bits and error, and ValueError for a target that is not positive.
    """
    if target is not None and not target.value > 0:
        raise ValueError(f"target {target.kind} {target.value}: must be positive")
    usable = sorted(
        (point for point in points if min(point.bits_per_position, point.mse, point.lmbda) > 0),
        key=lambda point: point.lmbda,
    )
    if not usable:
        raise ConfigError(
            f"level {level}: no run of a lambda above 0, with bits and an error, to begin from: "
            f"run train-level --level {level} --lambda 0.01 first"
        )
    lmbda, why = _for_gap(usable) if target is None else _for_target(usable, target)
    return Suggestion(level=level, lmbda=float(f"{lmbda:.3g}"), why=why)


def mse_for_drop(
    drop_at: Callable[[float], float], map_drop: float, low: float, high: float
) -> float | None:
    """Return the largest MSE in [low, high] whose predicted mAP drop is at most `map_drop`.

    `drop_at(mse)` must not fall as the MSE grows; found by halving ln MSE, to a relative 1e-6.
    None if even `low` loses more. Raises ValueError unless 0 < low <= high.
    """
    if not 0 < low <= high:
        raise ValueError(f"MSE from {low} to {high}: need 0 < low <= high")
    if drop_at(low) > map_drop:
        return None
    if drop_at(high) <= map_drop:
        return high
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if drop_at(middle) <= map_drop else (low, middle)
    return low


def _for_gap(points: Sequence[LambdaPoint]) -> tuple[float, str]:
    gaps = [
        (math.dist(_logs(first), _logs(second)), first.lmbda, second.lmbda)
        for first, second in itertools.pairwise(points)
        if second.lmbda > first.lmbda
    ]
    if not gaps:
        only = points[0].lmbda
        return only * _STEP, f"there is only lambda {only:g}: half a decade beside it, fewer bits"
    distance, low, high = max(gaps)
    return math.sqrt(low * high), (
        f"the largest gap of the curve lies between lambda {low:g} and {high:g}: "
        f"{distance:.2f} in (ln bits, ln MSE)"
    )


def _for_target(points: Sequence[LambdaPoint], target: LevelTarget) -> tuple[float, str]:
    places = pareto_front(
        [point.bits_per_position for point in points], [point.mse for point in points]
    )
    front = [points[place] for place in places.tolist()]
    if target.kind == "mse":
        front.reverse()
    reached = [_quantity(point, target) for point in front]
    shown = f"{'bits per position' if target.kind == 'bits' else 'MSE'} {target.value:.4g}"
    if reached[0] <= target.value <= reached[-1]:
        logs = np.log([point.lmbda for point in front])
        lmbda = math.exp(float(np.interp(math.log(target.value), np.log(reached), logs)))
        return lmbda, f"{shown} lies within the curve: lambda interpolated there"
    end = front[0] if target.value < reached[0] else front[-1]
    lmbda = _beyond(end, target)
    bounded = min(max(lmbda, end.lmbda / _DECADE), end.lmbda * _DECADE)
    why = f"{shown} lies beyond the curve: extrapolated from lambda {end.lmbda:g} by its slope"
    if not math.isclose(bounded, lmbda):
        why += ", and bounded to a factor of ten"
    return bounded, why


def _beyond(end: LambdaPoint, target: LevelTarget) -> float:
    """Return -dD/dR at the target, on the power law through `end` with its own slope."""
    exponent = end.lmbda * end.bits_per_position / end.mse
    # With D = a R^-e: -dD/dR = e D / R. In logs, as a small exponent makes huge ratios.
    change = math.log(target.value / _quantity(end, target))
    power = -(exponent + 1) if target.kind == "bits" else 1 + 1 / exponent
    return end.lmbda * math.exp(min(max(power * change, -50.0), 50.0))


def _quantity(point: LambdaPoint, target: LevelTarget) -> float:
    return point.bits_per_position if target.kind == "bits" else point.mse


def _logs(point: LambdaPoint) -> tuple[float, float]:
    return math.log(point.bits_per_position), math.log(point.mse)


_BELOW_BEST = 0.1  # of the smallest MSE: drops are not looked for further down


def next_lambdas(
    split: Split,
    runs: Sequence[MeasuredRun],
    detection: DetectionStudy | None,
    allocation: AllocationFinding | None,
    target: Target | None,
) -> Found[tuple[Suggestion, ...]]:
    """Suggest one for each level and each learner of it: these have curves of their own.

    Without `target`, in the largest gap of the curve; with it, where the level does its part.
    """
    found, missing = [], []
    labels = learner_labels(each.run for each in runs)
    for level, model in sorted({(each.run.level, each.run.model) for each in runs}):
        own = [each for each in runs if each.run.level == level]
        points = [
            LambdaPoint(
                lmbda=each.run.lmbda,
                bits_per_position=each.measurement.real_bpp,
                mse=each.measurement.mse,
            )
            for each in own
            if each.run.model == model
        ]
        try:
            aim: LevelTarget | None
            if target is None:
                aim = None
            elif target.kind == "mse":
                aim = LevelTarget(kind="mse", value=target.value)
            elif allocation is None:
                raise ConfigError(
                    f"level {level}: without an allocation a level has no part of the target"
                )
            elif target.kind == "bpp":
                chosen = allocation.allocation.combination
                aim = _share_of_bits(level, target.value, chosen, split)
            else:
                aim = _share_of_drop(level, model, target.value, own, split, detection)
            suggestion = suggest_lambda(level, points, aim)
        except ConfigError as error:
            missing.append(f"no next lambda: {error}")
            continue
        if labels[model]:
            suggestion = dataclasses.replace(suggestion, why=f"{labels[model]}: {suggestion.why}")
        found.append(suggestion)
    return Found(tuple(found), tuple(missing))


def _share_of_bits(
    level: int, bits_per_pixel: float, chosen: Allocated, split: Split
) -> LevelTarget:
    """Return a level's bits, of those of all levels: the share that it has in the allocation.

    Raises ConfigError where it has none.
    """
    (mine,) = (option for option in chosen.options if option.level == level)
    if mine.run is None:
        raise ConfigError(
            f"level {level}: is {mine.kind} in the allocation, and gets no bits of the target"
        )
    bits = bits_per_pixel * mine.bits_per_pixel / chosen.bits_per_pixel
    shapes = split.readers[level].shapes[: split.num_images, :2]
    positions = int(shapes.prod(axis=1).sum())
    return LevelTarget(kind="bits", value=bits * split.num_pixels / positions)


def _share_of_drop(
    level: int,
    model: str,
    map_drop: float,
    runs: Sequence[MeasuredRun],
    split: Split,
    detection: DetectionStudy | None,
) -> LevelTarget:
    """Return the error at which a level, of these runs, loses an equal share with the others.

    Raises ConfigError if every error loses more.
    """
    high = dropped_error(split, level)
    costs = [each.cost for each in runs]
    drop_at = measured_drops(level, costs, high, drop_on_all(detection))
    low = min(high, *(each.measurement.mse for each in runs)) * _BELOW_BEST
    share = map_drop / len(split.readers)
    mse = mse_for_drop(lambda mse: drop_at(mse, model) or 0.0, share, low, high)
    if mse is None:
        raise ConfigError(
            f"level {level}: no error is small enough for its part of the drop, {share:.3g}: "
            "name a larger --target-map-drop"
        )
    return LevelTarget(kind="mse", value=mse)
