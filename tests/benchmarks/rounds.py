"""Time contestants side by side: taking turns, each round in another order, medians compared."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median

ROUNDS = 7


def interleaved(
    contestants: Mapping[str, Callable[[int], float]],
    *,
    rounds: int = ROUNDS,
    before: Callable[[str, int], object] | None = None,
) -> dict[str, list[float]]:
    """Return name -> what each round's call returned: seconds, or another measure.

    A contestant is called with the round's number; round 0 warms up and is not counted.
    `before(name, number)` is called ahead of each. Whoever shares the machine then disturbs all
    contestants alike.
    """
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if before is not None:
                before(name, number)
            value = contestants[name](number)
            if number:
                measured[name].append(value)
    return measured


def timed(function: Callable[[int], object]) -> Callable[[int], float]:
    """Return a contestant that calls the function and returns its seconds."""

    def run(number: int) -> float:
        gc.collect()
        start = time.perf_counter()
        function(number)
        return time.perf_counter() - start

    return run


def medians(measured: Mapping[str, list[float]]) -> dict[str, float]:
    """Return name -> median."""
    return {name: median(values) for name, values in measured.items()}
