"""What to type next where an analysis lacks something: the first line of its report."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def next_step(
    split: str,
    options: str,
    *,
    known_splits: Collection[str],
    has_cache: bool,
    has_runs: bool,
    no_detection: Sequence[str],
) -> str:
    """Return the command, or what to write first, that an analysis of the split lacks most.

    Empty where it lacks nothing. `options` are what commands need to reach the same data,
    `known_splits` those of the configuration, `no_detection` lines "what: why: what to do".
    """
    if not has_cache:
        if split not in known_splits:
            return f"analyze-levels --split train{options}"
        return f"extract-features --split {split}{options}"
    if not has_runs:
        return f"train-level --level all{options}"
    return no_detection[0].rpartition(": ")[2] if no_detection else ""
