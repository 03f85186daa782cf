"""Choose among runs: the newest of each (level, lambda), and which make a whole pyramid. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A trained run, as far as choosing needs to know it."""

    folder: Path
    level: int
    lmbda: float
    best_validation_loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pyramid:
    """One run for every level, and what to call them together."""

    name: str
    runs: dict[int, Candidate]


def newest_runs(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Keep one run per (level, lambda), ordered by lambda then level.

    Run folders are named after the time of their start, so the last name is the newest.
    """
    newest: dict[tuple[float, int], Candidate] = {}
    for candidate in sorted(candidates, key=lambda run: run.folder.name):
        newest[(candidate.lmbda, candidate.level)] = candidate
    return [newest[key] for key in sorted(newest)]


def pyramids(candidates: Sequence[Candidate], levels: Sequence[int]) -> list[Pyramid]:
    """Return one pyramid per lambda that has every level; if none has, the best run of each level.

    Best is the smallest validation loss. Empty when some level has no run at all.
    """
    by_lambda: dict[float, dict[int, Candidate]] = {}
    best: dict[int, Candidate] = {}
    for candidate in candidates:
        by_lambda.setdefault(candidate.lmbda, {})[candidate.level] = candidate
        held = best.get(candidate.level)
        if held is None or candidate.best_validation_loss < held.best_validation_loss:
            best[candidate.level] = candidate
    complete = [
        Pyramid(name=f"all levels, lambda {lmbda:.3g}", runs=_in_order(runs, levels))
        for lmbda, runs in sorted(by_lambda.items())
        if set(levels) <= set(runs)
    ]
    if complete:
        return complete
    if set(levels) <= set(best):
        name = "all levels, best run of each (no lambda has every level)"
        return [Pyramid(name=name, runs=_in_order(best, levels))]
    return []


def _in_order(runs: Mapping[int, Candidate], levels: Sequence[int]) -> dict[int, Candidate]:
    return {level: runs[level] for level in sorted(levels)}
