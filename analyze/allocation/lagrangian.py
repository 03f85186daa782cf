"""Bits over levels: the combinations of points that are worth having, by Lagrangian search. Pure.

Everett 1963, "Generalized Lagrange multiplier method"; Shoham and Gersho 1988, "Efficient bit
allocation for an arbitrary set of quantizers": for any multiplier m >= 0, taking in each level the
point that minimises cost + m * bits gives the lowest total cost of all combinations that need no
more bits. As m falls from infinity to 0, the levels walk along their own convex hulls, and the sums
are the convex hull of all combinations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analyze.curves.rate_quality import lower_hull

_SLACK = 1e-12
"""Relative: sums of the same numbers in another order differ by this much at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One way to send one level."""

    level: int
    name: str
    """Unique within the level."""
    bits_per_pixel: float
    """Of the original images."""
    mse: float
    """In the features' own units, over all elements of the level."""
    map_drop: float | None = None
    """Measured mAP loss with this level alone so, 0..1; None: to be predicted from the MSE."""
    run: str | None = None
    kind: Literal["run", "derived", "dropped"] = "run"
    source: tuple[int, str] | None = None
    """For "derived": (level, name) of the option that this one is made from; its MSE and drop hold
    with that option only, so there is one derived option for each option of the source level."""
    beside: tuple[int, str] | None = None
    """(level, name) of the option that a contextual run is decoded beside: no other will do."""

    @property
    def needed(self) -> tuple[tuple[int, str], ...]:
        """Return the options of other levels without which it cannot be chosen."""
        return tuple(each for each in (self.source, self.beside) if each is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocated:
    """Each level sent in one way."""

    options: tuple[Option, ...]
    """By level."""
    bits_per_pixel: float
    cost: float
    """Sum of the options' costs: predicted mAP drop, or element-weighted MSE."""

    @property
    def runs(self) -> dict[int, str]:
        """Level -> run, of the levels that a run codes."""
        return {each.level: each.run for each in self.options if each.run is not None}


Cost = Callable[[Option], float]
"""What an option costs in quality. Total cost is the sum over levels."""


def map_drop_cost(option: Option) -> float:
    """Return an option's own measured drop of mAP, at least 0; ValueError for one without.

    A gain is noise of the measurement; it must not pay for another level's loss.
    """
    if option.map_drop is None:
        raise ValueError(f"level {option.level}, {option.name}: no mAP drop")
    return max(option.map_drop, 0.0)


def weighted_mse_cost(shares: Mapping[int, float]) -> Cost:
    """Cost by error: MSE times the level's share of all elements, so that the sum is an MSE."""
    return lambda option: shares[option.level] * option.mse


def hull_combinations(options: Iterable[Option], cost: Cost) -> tuple[Allocated, ...]:
    """Return the combinations on the lower convex hull of (total bits, total cost), cheapest first.

    Bits rise and cost falls strictly along them. Neighbours differ in one level, or in one pair of
    levels of which one is derived from the other, or in a chain of levels decoded one beside the
    other.
    """
    groups = choice_groups(options, cost)
    hulls = [_hull_of(choices) for choices in groups]
    steps = [
        (_slope(hull[place], hull[place + 1]), group, place + 1)
        for group, hull in enumerate(hulls)
        for place in range(len(hull) - 1)
    ]
    # Steepest fall first. Along one hull slopes rise, so the order within a group is kept.
    steps.sort()
    at = [0] * len(groups)
    result = [_joined(hull[0] for hull in hulls)]
    for _, group, place in steps:
        at[group] = place
        result.append(_joined(hull[each] for hull, each in zip(hulls, at, strict=True)))
    return tuple(result)


def within_bits(
    options: Iterable[Option], cost: Cost, bits_per_pixel: float
) -> tuple[Allocated, float] | None:
    """Return a combination of low cost that needs at most `bits_per_pixel`, and a bound.

    The last hull combination that fits, improved by the best single exchange that still fits until
    there is none. No combination that fits costs less than the bound: the hull, read at
    `bits_per_pixel`. None if not even the cheapest combination fits.
    """
    options = list(options)
    hull = hull_combinations(options, cost)
    limit = _raised(bits_per_pixel)
    fitting = [each for each in hull if each.bits_per_pixel <= limit]
    if not fitting:
        return None
    found = fitting[-1]
    groups = choice_groups(options, cost)
    while better := [
        each
        for each in _exchanges(found, groups)
        if each.bits_per_pixel <= limit and _is_less(each.cost, found.cost)
    ]:
        found = min(better, key=lambda each: (each.cost, each.bits_per_pixel))
    bound = _on_hull([(each.bits_per_pixel, each.cost) for each in hull], bits_per_pixel)
    return found, min(bound, found.cost)


def within_cost(
    options: Iterable[Option], cost: Cost, highest_cost: float
) -> tuple[Allocated, float] | None:
    """Return a combination of few bits that costs at most `highest_cost`, and a bound.

    As `within_bits` with the two exchanged: no combination of at most that cost needs fewer bits
    per pixel than the bound. None if not even the best combination costs so little.
    """
    options = list(options)
    hull = hull_combinations(options, cost)
    limit = _raised(highest_cost)
    fitting = [each for each in hull if each.cost <= limit]
    if not fitting:
        return None
    found = fitting[0]
    groups = choice_groups(options, cost)
    while better := [
        each
        for each in _exchanges(found, groups)
        if each.cost <= limit and _is_less(each.bits_per_pixel, found.bits_per_pixel)
    ]:
        found = min(better, key=lambda each: (each.bits_per_pixel, each.cost))
    bound = _on_hull([(each.cost, each.bits_per_pixel) for each in reversed(hull)], highest_cost)
    return found, min(bound, found.bits_per_pixel)


def choice_groups(options: Iterable[Option], cost: Cost) -> list[list[Allocated]]:
    """Return what may be chosen independently: for each group of levels, all its choices.

    A group is one level, or levels of which one is derived from another, or decoded beside it:
    then a choice is one option of each that go together. Raises ValueError if a level's names are
    not unique, or a group has no choice.
    """
    by_level: dict[int, list[Option]] = {}
    for option in options:
        held = by_level.setdefault(option.level, [])
        if option.name in {each.name for each in held}:
            raise ValueError(f"level {option.level} has two options named {option.name}")
        held.append(option)
    groups = []
    for levels in _linked_levels(by_level):
        choices = [
            _combination(picked, cost)
            for picked in _going_together([by_level[level] for level in levels])
        ]
        if not choices:
            raise ValueError(f"levels {levels}: derived from options that are not there")
        groups.append(choices)
    return groups


def _linked_levels(by_level: Mapping[int, Sequence[Option]]) -> list[list[int]]:
    linked = {level: {level} for level in sorted(by_level)}
    for level, held in sorted(by_level.items()):
        for option in held:
            for other, _ in option.needed:
                merged = linked[level] | linked.get(other, set())
                linked.update(dict.fromkeys(merged, merged))
    return [sorted(levels) for level, levels in linked.items() if level == min(levels)]


def _going_together(by_level: Sequence[Sequence[Option]]) -> Iterator[tuple[Option, ...]]:
    """Yield one option of each level, all ways in which each has what it needs.

    Level by level, so that what cannot go on is not multiplied by what follows.
    """
    last = len(by_level) - 1

    def follow(picked: tuple[Option, ...]) -> Iterator[tuple[Option, ...]]:
        if len(picked) > last:
            yield picked
            return
        for option in by_level[len(picked)]:
            more = (*picked, option)
            if _may_go_together(more, is_whole=len(picked) == last):
                yield from follow(more)

    return follow(())


def _may_go_together(picked: Sequence[Option], *, is_whole: bool) -> bool:
    """Say whether none misses what it needs, of the levels that are picked, or of all."""
    present = {option.level: option.name for option in picked}
    return all(
        present[level] == name if level in present else not is_whole
        for option in picked
        for level, name in option.needed
    )


def _combination(options: Iterable[Option], cost: Cost) -> Allocated:
    ordered = tuple(sorted(options, key=lambda option: option.level))
    return Allocated(
        options=ordered,
        bits_per_pixel=math.fsum(option.bits_per_pixel for option in ordered),
        cost=math.fsum(cost(option) for option in ordered),
    )


def _joined(parts: Iterable[Allocated]) -> Allocated:
    parts = list(parts)
    options = itertools.chain.from_iterable(part.options for part in parts)
    return Allocated(
        options=tuple(sorted(options, key=lambda option: option.level)),
        bits_per_pixel=math.fsum(part.bits_per_pixel for part in parts),
        cost=math.fsum(part.cost for part in parts),
    )


def _exchanges(
    combination: Allocated, groups: Sequence[Sequence[Allocated]]
) -> Iterator[Allocated]:
    """Yield every combination that differs in one group's choice."""
    chosen = {(option.level, option.name) for option in combination.options}
    current = [
        next(
            choice
            for choice in choices
            if all((option.level, option.name) in chosen for option in choice.options)
        )
        for choices in groups
    ]
    for place, choices in enumerate(groups):
        for choice in choices:
            if choice is not current[place]:
                yield _joined([*current[:place], choice, *current[place + 1 :]])


def _hull_of(choices: Sequence[Allocated]) -> list[Allocated]:
    places = lower_hull(
        [choice.bits_per_pixel for choice in choices], [choice.cost for choice in choices]
    )
    return [choices[place] for place in places.tolist()]


def _slope(first: Allocated, second: Allocated) -> float:
    return (second.cost - first.cost) / (second.bits_per_pixel - first.bits_per_pixel)


def _on_hull(points: Sequence[tuple[float, float]], x: float) -> float:
    """Return y of the falling hull at x: interpolated, and its last y beyond it."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1] if x > points[-1][0] else points[0][1]


def _raised(limit: float) -> float:
    return limit + _SLACK * max(abs(limit), 1.0)


def _is_less(a: float, b: float) -> bool:
    return a < b - _SLACK * max(abs(b), 1.0)
