"""What choosing among runs needs to know of them, and the newest of each kind. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.own_code import code_of, is_own
from configs.schema.config import Config
from configs.schema.training import ModelConfig

COARSE_TO_FINE = "coarse to fine"

Kind = tuple[tuple[str, float, int, int], ...]
"""Learner, lambda, level and seed of a run, and of each of its chain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLevel:
    """What one configuration has for a level of its pyramid."""

    level: int
    learner: str
    """See `learner`."""
    lmbda: float


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
    plan: tuple[PlannedLevel, ...] = ()
    """The pyramid of its configuration, where levels differ in it: see `plan_of`."""
    seed: int = 0
    context: Candidate | None = None
    """The run of the coarser level beside whose decoded maps it is measured; None: it codes alone.
    """
    is_predicted: bool = False
    """Nothing is sent of its level."""
    num_levels: int = 1
    """Those that its model serves: of one for several levels there is a candidate for each."""
    own_folder: Path | None = None
    """The run's own, where it is one of several ways to take the run: `folder` is then a name below
    it, of no folder."""
    is_fused: bool = False
    """Its model codes its level together with others, and `folder` is a name for this one of them.
    """

    @property
    def model_folder(self) -> Path:
        """Return the folder that holds its model."""
        return self.folder if self.own_folder is None else self.own_folder

    @property
    def chain(self) -> tuple[Candidate, ...]:
        """Return the runs that are decoded before this one, the next coarser level's first."""
        return () if self.context is None else self.context.whole

    @property
    def whole(self) -> tuple[Candidate, ...]:
        """Return the run itself and its chain."""
        return (self, *self.chain)


def predicted_ways(run: Candidate) -> list[Candidate]:
    """Return the ways to send nothing of a contextual run's level, each a learner of its own.

    The next coarser level is coded, or predicted in turn.
    """
    if run.context is None:
        return []
    ways = []
    for context in (run.context, *predicted_ways(run.context)):
        coded = next(each.level for each in context.whole if not each.is_predicted)
        ways.append(
            replace(
                run,
                folder=run.folder / f"predicted_from_level_{coded}",
                own_folder=run.model_folder,
                model=f"{run.model} predicted from level {coded}",
                context=context,
                is_predicted=True,
            )
        )
    return ways


def learner(config: Config) -> str:
    """Return the model, with what it minimises unless that is the MSE: such runs do not compare.

    Nor do those that see the decoded coarser level compare with those that code alone, or those
    that serve several runs of it with those that serve one. The model is its name and its options,
    without a space: `my_codecs:Smoothed(kernel=5)`.
    """
    learnt_by, num_contexts = config.training.learnt_by, len(config.training.context)
    beside = "" if config.model.context is None else f" {COARSE_TO_FINE}"
    if beside and num_contexts > 1:
        beside += f" for {num_contexts} contexts"
    return _model(config.model) + ("" if learnt_by == "mse" else f" {learnt_by}") + beside


def plan_of(config: Config, levels: Iterable[int] = ()) -> tuple[PlannedLevel, ...]:
    """Return the pyramid of a configuration whose `levels` have lambdas or learners of their own.

    It is of `levels` and of those that the configuration names. Empty where all are alike: such
    runs find each other by lambda and learner.
    """
    numbers = sorted({*levels, *config.levels})
    of_levels = [(level, config.of_level(level, numbers)) for level in numbers]
    plan = tuple(
        PlannedLevel(level=level, learner=learner(own), lmbda=own.training.lmbda)
        for level, own in of_levels
    )
    return plan if len({(each.learner, each.lmbda) for each in plan}) > 1 else ()


def codec_code(model: ModelConfig) -> str:
    """Return what, beside its weights, a codec of the user's own codes by; empty for ours.

    That is its class, its options, and its module's file: results are kept under it.
    """
    return f"{_model(model)} {code_of(model.name)}" if is_own(model.name) else ""


def learner_labels(runs: Iterable[Candidate]) -> dict[str, str]:
    """Return `Candidate.model`, and that of a planned pyramid -> what tells it from the others.

    As short as they allow: nothing if there is one only, or if one plan has all runs; the
    distortion if all models are of one name.
    """
    runs = list(runs)
    learners = sorted({run.model for run in runs})
    plans = {plan: planned_learner(plan) for plan in dict.fromkeys(run.plan for run in runs)}
    mixed = {name: plan for plan, name in plans.items() if name not in ("", *learners)}
    if len(learners) < 2 or (len(mixed) == 1 and _is_one_plans(runs, *mixed.values())):
        return dict.fromkeys([*learners, *mixed], "")
    labels = {each: each for each in learners}
    if len({each.partition(" ")[0] for each in learners}) == 1:
        labels = {each: each.partition(" ")[2] or "mse" for each in learners}
    return labels | {name: planned_learner(plan, labels) for name, plan in mixed.items()}


def _is_one_plans(runs: Iterable[Candidate], plan: Sequence[PlannedLevel]) -> bool:
    planned = {(each.level, each.learner) for each in plan}
    return all((run.level, run.model) in planned for run in runs)


def planned_learner(plan: Sequence[PlannedLevel], labels: Mapping[str, str] | None = None) -> str:
    """Return the learner of a plan, or its learners and their levels: `a at 0, b at 1 and 2`."""
    levels: dict[str, list[str]] = {}
    for each in plan:
        name = labels.get(each.learner, each.learner) if labels else each.learner
        levels.setdefault(name, []).append(str(each.level))
    if len(levels) < 2:
        return "".join(levels)
    return ", ".join(f"{name} at {' and '.join(at)}" for name, at in levels.items())


def kind_of(run: Candidate) -> Kind:
    """Return what runs have in common of which the newest counts: their chains', too."""
    return tuple((each.model, each.lmbda, each.level, each.seed) for each in run.whole)


def newest_runs(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Keep one run per model, level, lambda, seed and chain, ordered by these.

    Run folders are named after the time of their start, so the last name is the newest. A run whose
    context is not kept gives way to one whose is.
    """
    newest: dict[Kind, Candidate] = {}

    def is_beside_kept(run: Candidate) -> bool:
        return run.context is None or newest.get(kind_of(run.context)) == run.context

    for run in sorted(candidates, key=lambda run: (-run.level, run.model_folder.name)):
        held = newest.get(kind_of(run))
        if held is None or is_beside_kept(run) or not is_beside_kept(held):
            newest[kind_of(run)] = run
    useful = {run.model_folder for run in newest.values() if is_beside_kept(run)}
    return [
        run
        for _, run in sorted(newest.items(), key=lambda each: each[0])
        if is_beside_kept(run) or run.model_folder not in useful
    ]


def runs_by_seed(candidates: Iterable[Candidate]) -> dict[int | None, list[Candidate]]:
    """Return seed -> the runs of a study of that seed; None -> all runs if none differ in it only.

    A run that was trained with one seed alone belongs to those of every seed.
    """
    alike: dict[tuple[tuple[str, float, int], ...], list[Candidate]] = {}
    for run in candidates:
        kind = tuple((model, lmbda, level) for model, lmbda, level, _ in kind_of(run))
        alike.setdefault(kind, []).append(run)
    seeds_of_kind = {kind: {run.seed for run in runs} for kind, runs in alike.items()}
    seeds = sorted(set().union(*(each for each in seeds_of_kind.values() if len(each) > 1)))
    if not seeds:
        return {None: [run for runs in alike.values() for run in runs]}
    return {
        seed: [
            run
            for kind, runs in alike.items()
            for run in runs
            if len(seeds_of_kind[kind]) == 1 or run.seed == seed
        ]
        for seed in seeds
    }


def seeds_of(candidates: Iterable[Candidate]) -> dict[Path, int | None]:
    """Return run folder -> its seed, None where no run differs from it in the seed only."""
    by_seed = runs_by_seed(candidates)
    count = Counter(run.folder for runs in by_seed.values() for run in runs)
    return {
        run.folder: seed if count[run.folder] < len(by_seed) else None
        for seed, runs in by_seed.items()
        for run in runs
    }


def _model(model: ModelConfig) -> str:
    if not model.options:
        return model.name
    options = ",".join(
        f"{name}={json.dumps(value, sort_keys=True, separators=(',', ':'), default=str)}"
        for name, value in sorted(model.options.items())
    )
    return f"{model.name}({options})".replace(" ", r"\u0020")  # as JSON may write it
