"""The four ways to code a pyramid with trained models: their names, and how each is trained. Pure.

A model for each level that sees no other; one for all levels, coded one by one; one for all levels
in one latent; a model for each level that sees the decoded coarser one.
"""

from __future__ import annotations

from collections.abc import Iterable

from analyze.facts.candidates import COARSE_TO_FINE, Candidate

SPECIFIC = "level-specific"
RANDOM_LEVEL = "random level"
FUSED = "fused"

HOW_TO_TRAIN = {
    SPECIFIC: "train-level --level all",
    RANDOM_LEVEL: "train-level --level random",
    FUSED: "train-level --level fused",
    COARSE_TO_FINE: "train-level --level all --coarse-to-fine",
}
"""In the order in which they are compared."""

OURS = (SPECIFIC, COARSE_TO_FINE)
"""Those of a model for each level."""


def approach_of(runs: Iterable[Candidate]) -> str:
    """Return how these runs code a pyramid together; empty without a run."""
    runs = list(runs)
    if any(run.is_fused for run in runs):
        return FUSED
    if any(run.context is not None for run in runs):
        return COARSE_TO_FINE
    if any(run.num_levels > 1 for run in runs):
        return RANDOM_LEVEL
    return SPECIFIC if runs else ""
