"""Which level of an ensemble each contextual model sees: the next coarser one, by a model it knows.

A model that was trained beside a decoded level makes sense of what that level's own model decodes,
and of no other's.
"""

from __future__ import annotations

from analyze.streams.ensemble import DerivedLevel, Ensemble, ModelLevel, PredictedLevel
from configs.errors import ConfigError
from train.runs.checkpoint import RunInfo
from train.runs.loaded_models import LoadedModels


def context_levels(ensemble: Ensemble, models: LoadedModels) -> dict[int, int]:
    """Return level -> the coarser level that its model sees, of all contextual models.

    Derived levels are none that could be seen. Raises ConfigError if a contextual model does not
    stand beside one that it was trained beside, or a level is predicted by one that sees nothing.
    """
    contexts: dict[int, int] = {}
    for level, how in ensemble.levels.items():
        if not isinstance(how, ModelLevel):
            continue
        run = models.info(how.run)
        if run.config.model.context is not None:
            contexts[level] = _seen_by(run, level, how, ensemble)
        elif isinstance(how, PredictedLevel):
            raise ConfigError(
                f"level {level} cannot be predicted: {how.run} was trained without --context: name "
                "a run that sees the coarser level, or send the level"
            )
    return contexts


def levels_beside(level: int, contexts: dict[int, int]) -> list[int]:
    """Return the finer levels that see a level, or one that sees it, in ascending order."""
    found: list[int] = []
    for finer in sorted(contexts, reverse=True):
        if contexts[finer] in (level, *found):
            found.insert(0, finer)
    return found


def _seen_by(run: RunInfo, level: int, how: ModelLevel, ensemble: Ensemble) -> int:
    coarser = [
        other
        for other in sorted(ensemble.levels)
        if other > level and not isinstance(ensemble.levels[other], DerivedLevel)
    ]
    if coarser:
        seen = ensemble.levels[coarser[0]]
        if isinstance(seen, ModelLevel) and seen.model_sha256 in run.context:
            return coarser[0]
    where = f"level {coarser[0]}" if coarser else "the coarser level"
    raise ConfigError(
        f"level {level}: {how.run} sees {where} as decoded by {run.context_in_words}, which does "
        f"not send it here: name that run for {where}, or for level {level} a run that was "
        "trained beside another one, or without --context"
    )
