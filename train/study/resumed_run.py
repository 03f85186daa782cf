"""The one run that `--resume` names: it goes on with its own settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from configs.config_files import load_config
from configs.errors import ConfigError
from configs.trusted_code import named_code, refuse_untrusted
from train.loop.job import Job
from train.runs.run_folder import CONFIG_NAME, difference_of_settings, load_run_config
from train.runs.run_record import RunRecord


def resumed_job(
    job: Job, folder: Path, level: str | None, lambdas: tuple[float, ...], epochs: int | None,
    changed: tuple[str, ...],
) -> Job:  # fmt: skip
    """Return the job of a run folder: its own settings, with more epochs if they were asked for.

    `changed` are all options' overrides: where data set and detector lie may be another place now.
    """
    record, config = RunRecord.load(folder), load_run_config(folder)
    if level not in (None, str(record.level)) or lambdas not in ((), (record.lmbda,)):
        raise ConfigError(
            f"--resume {folder}: is a run of level {record.level}, lambda {record.lmbda:g}: "
            "leave out --level and --lambda"
        )
    if epochs is not None and epochs != config.training.epochs:
        if epochs < record.epochs:
            raise ConfigError(
                f"--resume {folder}: has {record.epochs} epochs behind it: --epochs {epochs} would "
                "be fewer: name more, or start a new run with --resume never"
            )
        training = config.training.model_copy(update={"epochs": epochs})
        config = config.model_copy(update={"training": training})
    now = load_config(folder / CONFIG_NAME, changed)
    refuse_untrusted(named_code(now), job.trust_code, folder / CONFIG_NAME)
    if (difference := difference_of_settings(config, now)) is not None:
        raise ConfigError(
            f"--resume {folder}: a run goes on with its own settings ({difference}): leave that "
            "out, or start another run with --resume never"
        )
    return replace(job, level=record.level, config=now, resume=folder)
