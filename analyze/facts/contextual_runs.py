"""A run that was trained beside several: one candidate beside each of them, and its name. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from analyze.facts.candidates import Candidate


def beside_each(run: Candidate, contexts: Sequence[Candidate]) -> list[Candidate]:
    """Return a run beside each candidate of the coarser level: what it codes differs with it."""
    if len(contexts) == 1:
        return [replace(run, context=contexts[0])]
    return [
        replace(
            run,
            folder=run.folder / f"beside_{'_'.join(_short(each) for each in context.whole)}",
            own_folder=run.folder,
            context=context,
        )
        for context in contexts
    ]


def _short(run: Candidate) -> str:
    return run.model_sha256[:16]


def beside_labels(runs: Iterable[Candidate]) -> dict[Path, str]:
    """Return `Candidate.folder` -> beside which run it is measured, in as few words as will do.

    Empty for what codes alone, and on a level where nothing but that tells no two runs apart.
    """
    runs = list(runs)
    labels = dict.fromkeys((run.folder for run in runs), "")
    for level in {run.level for run in runs}:
        seeing = [run for run in runs if run.level == level and run.context is not None]
        if seeing and not _are_apart(seeing, lambda run: ""):
            words = next(words for words in _ways_to_say(seeing) if _are_apart(seeing, words))
            labels.update((run.folder, words(run)) for run in seeing)
    return labels


def _are_apart(runs: Iterable[Candidate], words: Callable[[Candidate], str]) -> bool:
    held = Counter((run.model, run.lmbda, run.seed, words(run)) for run in runs)
    return max(held.values()) == 1


def _ways_to_say(runs: Sequence[Candidate]) -> Iterable[Callable[[Candidate], str]]:
    """Yield ways to name a run's chain, the shortest first; the last tells all apart."""
    names: list[Callable[[Candidate], str]] = [
        lambda run: f"lambda {run.lmbda:.3g}",
        lambda run: f"lambda {run.lmbda:.3g}, seed {run.seed}",
        lambda run: f"lambda {run.lmbda:.3g} by {run.model}, seed {run.seed}",
        lambda run: str(run.folder),
    ]
    for name in names:
        for depth in range(1, max(len(run.chain) for run in runs) + 1):
            yield partial(_beside, name, depth)


def _beside(name: Callable[[Candidate], str], depth: int, run: Candidate) -> str:
    return " ".join(f"beside {name(each)}" for each in run.chain[:depth])
