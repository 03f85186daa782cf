"""The best combination for a target, its mAP drop verified by real detection runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from analyze.allocation.lagrangian import (
    Allocated,
    Cost,
    Option,
    hull_combinations,
    within_bits,
    within_cost,
)

Verify = Callable[[Allocated], float]
"""Runs detection with the combination in place and returns its mAP drop, 0..1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is asked for: `--target-bpp`, `--target-map-drop` or `--target-mse`.

    "bpp": lowest cost with at most `value` bits per pixel. "map_drop": fewest bits with a mAP drop
    of at most `value`, 0..1. "mse": fewest bits with an element-weighted MSE of at most `value`.
    """

    kind: Literal["bpp", "map_drop", "mse"]
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """The combination that was chosen for a target."""

    target: Target
    combination: Allocated
    """Its `cost` is the predicted mAP drop, or the MSE, whatever cost was searched with."""
    verified_drop: float | None
    """mAP drop of a real run; None: not verified."""
    met: bool
    """Whether the target is reached: by the verified drop where there is one."""
    bound: float | None
    """No combination of the same options can beat this predicted cost ("bpp") or these bits
    ("map_drop", "mse"). None where the target is out of reach, and for a "map_drop" that was
    verified: real drops are not the predicted ones that a bound is made of."""
    tried: tuple[tuple[Allocated, float], ...]
    """All verified combinations and their drops, in the order of the runs."""
    why: str
    """How it was chosen, or what is missing, as one sentence."""


MOST_RUNS = 8
"""Combinations that are verified for one target, unless asked for otherwise."""
_MOST_WITHIN = 4


def most_verified(target: Target) -> int:
    """Return how many combinations `search` may verify."""
    return {"map_drop": MOST_RUNS, "bpp": _MOST_WITHIN, "mse": 1}[target.kind]


def search(
    options: Iterable[Option],
    target: Target,
    cost: Cost,
    verify: Verify | None = None,
    *,
    max_runs: int = MOST_RUNS,
) -> Allocation:
    """Return the best combination for the target; at most `max_runs` calls of `verify`.

    `cost` is map_drop_cost or weighted_mse_cost, as the target asks ("bpp": either). Target "mse"
    is met by prediction, and the one combination chosen is verified. For "bpp" the one chosen and
    the dearest of the hull within the bits are, a few in all, and the smallest real drop wins: near
    each other, predictions are worth less than runs. For "map_drop" the hull is walked: first the
    cheapest combination whose predicted drop is within the target, then, by what was verified, in
    doubling strides towards more or fewer bits, then halved between the dearest that failed and the
    cheapest that held. That finds the cheapest of the hull if drops fall with bits; where they do
    not (they are noisy), it finds one that holds, all the same.
    """
    options = list(options)
    if target.kind != "map_drop":
        return _by_prediction(options, target, cost, verify, max_runs=min(max_runs, _MOST_WITHIN))
    hull = hull_combinations(options, cost)
    if verify is not None:
        return _by_walking(hull, target, verify, max_runs)
    predicted = within_cost(options, cost, target.value)
    if predicted is None:
        return _result(target, hull[-1], False, None, _OUT_OF_REACH[target.kind])
    chosen, bound = predicted
    return _result(target, chosen, True, bound, "by the predicted drop, not verified")


"""Combinations within the bits that are run."""

_OUT_OF_REACH = {
    "bpp": "even the cheapest combination needs more bits: train with larger lambdas",
    "mse": "even the best combination has a larger error: train with smaller lambdas",
    "map_drop": "even the best combination is predicted to lose more: train with smaller lambdas",
}


def _result(
    target: Target, combination: Allocated, met: bool, bound: float | None, why: str
) -> Allocation:
    return Allocation(
        target=target,
        combination=combination,
        verified_drop=None,
        met=met,
        bound=bound,
        tried=(),
        why=why,
    )


def _by_prediction(
    options: Sequence[Option], target: Target, cost: Cost, verify: Verify | None, *, max_runs: int
) -> Allocation:
    within = within_bits if target.kind == "bpp" else within_cost
    found = within(options, cost, target.value)
    if found is None:
        hull = hull_combinations(options, cost)
        nearest = hull[0] if target.kind == "bpp" else hull[-1]
        chosen = _result(target, nearest, False, None, _OUT_OF_REACH[target.kind])
    else:
        aim = "lowest cost within the bits" if target.kind == "bpp" else "fewest bits for the error"
        chosen = _result(target, found[0], True, found[1], f"{aim}, by Lagrangian search")
    if verify is None:
        return chosen
    candidates = [chosen.combination]
    if target.kind == "bpp" and chosen.met:
        candidates += [
            each
            for each in reversed(hull_combinations(options, cost))
            if each.bits_per_pixel <= target.value and each != chosen.combination
        ][: max_runs - 1]
    tried = tuple((each, verify(each)) for each in candidates)
    best, drop = min(tried, key=lambda each: (each[1], each[0].bits_per_pixel))
    several = f", the best of {len(tried)} runs" if len(tried) > 1 else ""
    return replace(
        chosen, combination=best, verified_drop=drop, tried=tried, why=chosen.why + several
    )


def _by_walking(
    hull: Sequence[Allocated], target: Target, verify: Verify, max_runs: int
) -> Allocation:
    if max_runs < 1:
        raise ValueError(f"max_runs {max_runs}: at least one run is needed")
    drops: dict[int, float] = {}
    place: int | None = next(
        (place for place, each in enumerate(hull) if each.cost <= target.value), len(hull) - 1
    )
    while place is not None and len(drops) < max_runs:
        drops[place] = verify(hull[place])
        place = _next_place(drops, target.value, len(hull))
    held = [place for place, drop in drops.items() if drop <= target.value]
    # Out of reach, the smallest measured drop is the nearest to the target.
    best = min(held) if held else min(drops, key=lambda each: (drops[each], each))
    if not held:
        why = "no combination that was run keeps within the drop: train with smaller lambdas"
    elif place is None:
        why = f"cheapest of the hull that held in {len(drops)} detection runs"
    else:
        why = f"cheapest that held when the limit of {max_runs} detection runs was reached"
    return Allocation(
        target=target,
        combination=hull[best],
        verified_drop=drops[best],
        met=bool(held),
        bound=None,
        tried=tuple((hull[place], drop) for place, drop in drops.items()),
        why=why,
    )


def _next_place(drops: dict[int, float], limit: float, num_places: int) -> int | None:
    """Return which hull combination to verify next, or None if there is nothing left to learn."""
    held = min((place for place, drop in drops.items() if drop <= limit), default=None)
    # Only failures cheaper than what holds bound the search; drops need not fall along the hull.
    end = num_places if held is None else held
    failed = max((place for place in drops if place < end), default=None)
    stride = 2 ** (len(drops) - 1)
    if held is None:
        assert failed is not None, "something was verified before"
        return min(failed + stride, num_places - 1) if failed < num_places - 1 else None
    if failed is None:
        return max(held - stride, 0) if held > 0 else None
    return (failed + held) // 2 if held - failed > 1 else None
