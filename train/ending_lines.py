"""What the command says of runs that have ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from configs.errors import UserError

if TYPE_CHECKING:
    from train.loop.job import Job
    from train.machine.distributed import World
    from train.study.chain import RunOutcome
    from train.study.study_place import StudyPlace

log = logging.getLogger(__name__)


def tell_outcome(outcome: RunOutcome, place: StudyPlace, world: World, jobs: Sequence[Job]) -> bool:
    """Print how a run ended; say whether it is finished."""
    if outcome.error is None:
        before = " (finished before)" if outcome.was_finished else ""
        if world.writes:
            click.echo(f"{_name(outcome, jobs)} -> {place.shown(outcome.folder)}{before}")
        return True
    if world.writes and len(jobs) > 1 and outcome.exit_code < 128:
        # At once, too: the last line of a study is nights away, and may never come.
        log.error("%s: %s", _name(outcome, jobs), outcome.error)
    return False


def _name(outcome: RunOutcome, jobs: Sequence[Job]) -> str:
    training = outcome.job.config.training
    name = f"level {outcome.job.level}, lambda {training.lmbda:g}"
    several = len({job.config.training.seed for job in jobs}) > 1
    return f"{name}, seed {training.seed}" if several else name


def fail_with(failed: list[RunOutcome], jobs: Sequence[Job]) -> None:
    """Raise the error of a single run; name all of them if there are several runs."""
    texts = [
        (f"{_name(outcome, jobs)}: " if len(jobs) > 1 else "") + str(outcome.error)
        for outcome in failed
    ]
    error = UserError("; ".join(texts))
    error.exit_code = max(outcome.exit_code for outcome in failed)
    raise error
