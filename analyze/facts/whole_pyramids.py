"""Which runs make a whole pyramid: of one learner and lambda, of one configuration, of one seed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from analyze.facts.candidates import (
    Candidate,
    PlannedLevel,
    learner_labels,
    planned_learner,
    runs_by_seed,
    seeds_of,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pyramid:
    """One run for every level, and what to call them together."""

    name: str
    runs: dict[int, Candidate]
    lmbda: float | None = None
    """The lambda of all its runs; None if they differ."""
    model: str | None = None
    """The learner of all its runs, or all learners of one plan; None if neither."""
    is_planned: bool = False
    """One configuration has these runs, as their levels' own settings or as common ones."""
    seed: int | None = None
    """Where there are runs that differ from these in the seed only."""


def pyramids(
    candidates: Sequence[Candidate],
    levels: Sequence[int],
    optional: Collection[int] = (),
    plan: tuple[PlannedLevel, ...] = (),
) -> list[Pyramid]:
    """Return a pyramid for each learner and lambda with every level, and for each complete plan.

    Plans are those of the runs' configurations, and `plan`. If nothing is complete: each level's
    best run, of the smallest validation loss. `optional` levels may lack: a decoder can derive
    them. Empty when some other level has no run at all. Contextual runs stand beside their own
    chain alone: a pyramid of one learner is that of its finest level's run, of several chains the
    one of the same lambda.
    """

    def is_whole(runs: Mapping[int, Candidate]) -> bool:
        beside = [run.context for run in runs.values() if run.context is not None]
        return required <= runs.keys() and all(
            runs.get(each.level) == each and each in candidates for each in beside
        )

    required = set(levels) - set(optional)
    there = {run.folder for run in candidates}
    usable = [run for run in candidates if there.issuperset(each.folder for each in run.chain)]
    alike: dict[tuple[str, float], list[Candidate]] = {}
    best: dict[int, Candidate] = {}
    for candidate in usable:
        alike.setdefault((candidate.model, candidate.lmbda), []).append(candidate)
        held = best.get(candidate.level)
        if held is None or candidate.best_validation_loss < held.best_validation_loss:
            best[candidate.level] = candidate
    labels = learner_labels(candidates)

    def pyramid(lambdas: str, runs: dict[int, Candidate], model: str, **more: Any) -> Pyramid:
        label = f", {labels[model]}" if labels.get(model) else ""
        return Pyramid(
            name=f"all levels, lambda {lambdas}{label}", runs=_in_order(runs, levels),
            model=model, is_planned=True, **more,
        )  # fmt: skip

    complete = [
        pyramid(f"{lmbda:.3g}", runs, model, lmbda=_only({run.lmbda for run in runs.values()}))
        for (model, lmbda), of_kind in sorted(alike.items())
        if is_whole(runs := _with_chain(_nearest(of_kind, partial(_is_of, lmbda))))
    ]
    for each in dict.fromkeys([*(run.plan for run in candidates), plan]):
        runs = planned_runs(each, usable)
        if each and is_whole(runs):
            of_levels = [planned.lmbda for planned in each if planned.level in levels]
            complete.append(
                pyramid(
                    ", ".join(f"{lmbda:.3g}" for lmbda in of_levels), runs, planned_learner(each),
                    lmbda=of_levels[0] if len(set(of_levels)) == 1 else None,
                )
            )  # fmt: skip
    if complete:
        return complete
    if best and is_whole(best := _with_chain(best)):
        name = "all levels, best run of each (no lambda has every level)"
        return [Pyramid(name=name, runs=_in_order(best, levels))]
    return []


def _with_chain(runs: Mapping[int, Candidate]) -> dict[int, Candidate]:
    """Return runs of one kind; of contextual ones the finest, and all that it is decoded beside."""
    finest = runs[min(runs)]
    return dict(runs) if finest.context is None else {each.level: each for each in finest.whole}


def _nearest(
    candidates: Iterable[Candidate], is_own: Callable[[Candidate], bool]
) -> dict[int, Candidate]:
    """Return level -> one of the candidates, that whose chain `is_own` from its first run on.

    Those of the coarser levels are of the finest one's chain, as far as they are candidates.
    """
    candidates = list(candidates)
    nearest: dict[int, Candidate] = {}
    for level in sorted({run.level for run in candidates}):
        own = [run for run in candidates if run.level == level]
        best = max(own, key=lambda run: [is_own(each) for each in run.chain])
        for run in best.whole:
            if run in candidates:
                nearest.setdefault(run.level, run)
    return nearest


def _is_of(lmbda: float, run: Candidate) -> bool:
    return run.lmbda == lmbda


def _only(lambdas: Collection[float]) -> float | None:
    return next(iter(lambdas)) if len(lambdas) == 1 else None


def planned_runs(
    plan: Iterable[PlannedLevel], candidates: Iterable[Candidate]
) -> dict[int, Candidate]:
    """Return level -> the run that a plan has for it; by whose configuration it was does not count.

    A study leaves a level that is trained already to the run that it finds.
    """
    wanted = {(each.level, each.learner, each.lmbda) for each in plan}

    def is_wanted(run: Candidate) -> bool:
        return (run.level, run.model, run.lmbda) in wanted

    return _nearest(filter(is_wanted, candidates), is_wanted)


def pyramids_of_seeds(
    candidates: Sequence[Candidate],
    levels: Sequence[int],
    optional: Collection[int] = (),
    plan: tuple[PlannedLevel, ...] = (),
) -> list[Pyramid]:
    """Return `pyramids`, each of one seed where there are runs that differ in it only."""
    seed_of = seeds_of(candidates)
    found: dict[tuple[str, ...], Pyramid] = {}
    for seed, runs in runs_by_seed(candidates).items():
        for each in pyramids(runs, levels, optional, plan):
            if any(seed_of[run.folder] is not None for run in each.runs.values()):
                each = replace(each, name=f"{each.name}, seed {seed}", seed=seed)
            key = (each.name, *(str(run.folder) for run in each.runs.values()))
            found[key] = each
    # Those of one lambda side by side.
    names = list(dict.fromkeys(_unseeded(each) for each in found.values()))
    return sorted(found.values(), key=lambda each: names.index(_unseeded(each)))


def _unseeded(pyramid: Pyramid) -> str:
    return pyramid.name.removesuffix(f", seed {pyramid.seed}")


def _in_order(runs: Mapping[int, Candidate], levels: Sequence[int]) -> dict[int, Candidate]:
    return {level: runs[level] for level in sorted(levels) if level in runs}
