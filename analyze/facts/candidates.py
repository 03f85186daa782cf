"""Choose among runs: the newest of each kind, and which make a whole pyramid. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.own_code import code_of, is_own
from configs.schema.config import Config
from configs.schema.training import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A trained run, as far as choosing needs to know it."""

    folder: Path
    level: int
    lmbda: float
    best_validation_loss: float
    model: str = ""
    """What learned it, and by which distortion: see `learner`."""
    model_sha256: str = ""
    code: str = ""
    """See `codec_code`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pyramid:
    """One run for every level, and what to call them together."""

    name: str
    runs: dict[int, Candidate]
    lmbda: float | None = None
    """The lambda of all its runs; None if they differ."""
    model: str | None = None


def learner(config: Config) -> str:
    """Return the model, with the distortion unless that is the MSE: such runs do not compare.

    The model is its name and its options, without a space: `my_codecs:Smoothed(kernel=5)`.
    """
    distortion = config.training.distortion
    return _model(config.model) + ("" if distortion == "mse" else f" {distortion}")


def codec_code(model: ModelConfig) -> str:
    """Return what, beside its weights, a codec of the user's own codes by; empty for ours.

    That is its class, its options, and its module's file: results are kept under it.
    """
    return f"{_model(model)} {code_of(model.name)}" if is_own(model.name) else ""


def learner_labels(runs: Iterable[Candidate]) -> dict[str, str]:
    """Return `Candidate.model` -> what tells it from the others in words, as short as they allow.

    Nothing if there is one only; the distortion if all models are of one name.
    """
    learners = sorted({run.model for run in runs})
    if len(learners) < 2:
        return dict.fromkeys(learners, "")
    if len({each.partition(" ")[0] for each in learners}) > 1:
        return {each: each for each in learners}
    return {each: each.partition(" ")[2] or "mse" for each in learners}


def newest_runs(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Keep one run per model, level and lambda, ordered by model, lambda, level.

    Run folders are named after the time of their start, so the last name is the newest.
    """
    newest: dict[tuple[str, float, int], Candidate] = {}
    for candidate in sorted(candidates, key=lambda run: run.folder.name):
        newest[(candidate.model, candidate.lmbda, candidate.level)] = candidate
    return [newest[key] for key in sorted(newest)]


def pyramids(
    candidates: Sequence[Candidate], levels: Sequence[int], optional: Collection[int] = ()
) -> list[Pyramid]:
    """Return a pyramid for each model and lambda with every level; if none, each level's best run.

    Best is the smallest validation loss. `optional` levels may lack: a decoder can derive them.
    Empty when some other level has no run at all.
    """
    required = set(levels) - set(optional)
    alike: dict[tuple[str, float], dict[int, Candidate]] = {}
    best: dict[int, Candidate] = {}
    for candidate in candidates:
        alike.setdefault((candidate.model, candidate.lmbda), {})[candidate.level] = candidate
        held = best.get(candidate.level)
        if held is None or candidate.best_validation_loss < held.best_validation_loss:
            best[candidate.level] = candidate
    labels = learner_labels(candidates)
    complete = [
        Pyramid(
            name=f"all levels, lambda {lmbda:.3g}"
            + (f", {labels[model]}" if labels[model] else ""),
            runs=_in_order(runs, levels),
            lmbda=lmbda,
            model=model,
        )
        for (model, lmbda), runs in sorted(alike.items())
        if required <= set(runs)
    ]
    if complete:
        return complete
    if required <= set(best):
        name = "all levels, best run of each (no lambda has every level)"
        return [Pyramid(name=name, runs=_in_order(best, levels))]
    return []


def _model(model: ModelConfig) -> str:
    if not model.options:
        return model.name
    options = ",".join(
        f"{name}={json.dumps(value, sort_keys=True, separators=(',', ':'), default=str)}"
        for name, value in sorted(model.options.items())
    )
    return f"{model.name}({options})".replace(" ", r"\u0020")  # as JSON may write it


def _in_order(runs: Mapping[int, Candidate], levels: Sequence[int]) -> dict[int, Candidate]:
    return {level: runs[level] for level in sorted(levels) if level in runs}
