"""How a run begins or goes on: its folder, its record, and what its weights begin from."""

from __future__ import annotations

import logging
import os
import platform
import secrets
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from configs.cores import threads_for_resumed
from configs.errors import CacheError, ConfigError, lack_of_memory
from configs.given_files import is_file
from configs.schema.config import Config
from data.places.local_copies import LocalCopies
from data.places.object_store import is_url
from train.loop.compiling import compile_if_worth_it
from train.loop.job import Caches, Job
from train.loop.session import Session
from train.machine.automatic import autocast_dtype, choose_precision
from train.machine.distributed import World
from train.machine.interruption import clear_disk_errors
from train.objective.catalogue import BOXES, CHANNEL_WEIGHTS
from train.runs.checkpoint import BEST_NAME, hash_model, load_last, load_weights, read_run_info
from train.runs.remote_runs import fetch_run
from train.runs.run_folder import CONTEXT, code_fingerprints, copy_run, make_run_folder, save_config
from train.runs.run_record import RunRecord
from train.runs.training_state import require_like, require_states_like

log = logging.getLogger(__name__)

_BUILTIN_DIR = Path(__file__).parents[1] / "builtin"
_UNDECIDED = ""
_NO_CACHES = {
    CHANNEL_WEIGHTS: "file of channel weights",
    BOXES: "set of boxes",
    CONTEXT: "context, by models of other weights",
}


def open_folder(job: Job, caches: Caches, world: World) -> Path:
    """Return the folder of the run to go on with, or a new one with its record in it."""
    with clear_disk_errors(job.parent):
        return _found_or_made(job, caches, world)


def _found_or_made(job: Job, caches: Caches, world: World) -> Path:
    if job.resume is not None:
        record, code = RunRecord.load(job.resume), code_fingerprints(job.config)
        for name, fingerprint in job.fingerprints().items():
            its = record.cache_fingerprints.get(name, "none")
            if its != fingerprint and name in code:
                log.info("%s: goes on, with other code of %s than it had", job.resume, name)
            elif its != fingerprint:
                what = _NO_CACHES.get(name, f"{name} cache")
                raise CacheError(
                    f"{job.resume}: was trained on another {what} (fingerprint {its[:12]}, this "
                    f"one has {fingerprint[:12]}): name what it was trained on (--features), or "
                    "start a new run with --resume never"
                )
        return job.resume
    settings = job.config.training
    # Runs at a URL may begin on several machines in one second.
    tag = "" if job.copies.url_of(job.parent) is None else f"_{secrets.token_hex(3)}"
    folder = make_run_folder(job.parent, job.config, datetime.now(), tag=tag)
    if job.continues is not None:
        record = RunRecord.load(job.continues)
        copy_run(job.continues, folder)
        record.continued.append({"run": str(job.continues), "epochs": record.epochs})
        record.finished = None
        record.save(folder)
        log.info("%s: has %d epochs: a copy goes on", job.continues, record.epochs)
        return folder
    RunRecord(
        level=job.level,
        lmbda=settings.lmbda,
        cache_fingerprints=job.fingerprints(),
        detector_weights_sha256=caches.train[0].manifest.detector["weights_sha256"],
        versions={name: version(name) for name in ("torch", "compressai", "numpy")},
        seed=settings.seed,
        device=job.device,
        precision=_UNDECIDED if settings.precision == "auto" else settings.precision,
        compiled=None,
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        num_processes=world.size,
        num_threads=torch.get_num_threads(),
        started=datetime.now().isoformat(timespec="seconds"),
    ).save(folder)
    return folder


def take_up(job: Job, folder: Path, session: Session, caches: Caches, world: World) -> RunRecord:
    """Bring the session to where the run stands; return its record."""
    record = world.from_first(lambda: RunRecord.load(folder))
    record.cache_fingerprints.update(code_fingerprints(job.config))
    record.context = world.from_first(job.context_models)  # as their folders lie now
    there = world.from_first(lambda: load_last(folder))
    if there is not None:
        go_on_from(there, session, folder)
        progress = session.progress
        if record.finished is not None and progress.epoch <= job.config.training.epochs:
            record.continued.append({"run": str(folder), "epochs": record.epochs})
            _tell_of_cosine(job.config, session)
        record.finished = None
        log.info("going on in epoch %d, after step %d", progress.epoch, progress.step)
        if (num_threads := threads_for_resumed(record.num_threads)) is not None:
            torch.set_num_threads(num_threads)  # others add in another order
    elif (start := run_to_begin_from(job, record)) is not None:
        weights = world.from_first(
            lambda: load_weights(best_model_of(start, job.level, job.copies))
        )
        session.codec.load_state_dict(weights)
        record.warm_start = {"run": start, "model_sha256": hash_model(weights)}
        log.info("beginning from the best model of %s", start)
    if record.precision == _UNDECIDED:
        record.precision, record.precision_reason = world.from_first(
            lambda: choose_precision(session.device)
        )
    session.codec.autocast_dtype = autocast_dtype(record.precision)
    compile_if_worth_it(job, session, caches, record, world)
    if world.writes:
        save_config(folder, job.config)
        record.save(folder)
    return record


def _tell_of_cosine(config: Config, session: Session) -> None:
    schedule, epochs = config.training.lr_schedule, config.training.epochs
    if schedule.enabled and schedule.name == "cosine":
        log.warning(
            "the cosine goes on as it is over %d epochs, at a learning rate of %.2e: the run is "
            "not what %d epochs from the start would have made", epochs,
            session.optimizer.param_groups[0]["lr"], epochs,
        )  # fmt: skip


def run_to_begin_from(job: Job, record: RunRecord | None = None) -> str | None:
    """Return the name of that run: the study's choice before `training.init_from`.

    A run that is gone on with, but stopped before its first checkpoint, begins as its `record`
    says that it did.
    """
    if job.warm_start is not None:
        return str(job.warm_start)
    if record is not None and record.warm_start is not None:
        return record.warm_start["run"]
    return job.config.training.init_from


def go_on_from(there: dict[str, Any], session: Session, folder: Path) -> None:
    """Bring the session to where a checkpoint stands; ConfigError if that cannot be gone on from.

    It is whole, but may be another program's, or of somebody who wrote into it.
    """
    try:
        state = there["training_state"]
        require_like(state, session.state())
        require_states_like(state["optimizer"], session.optimizer)
        require_states_like(state["aux_optimizer"], session.aux_optimizer)
        session.restore(there["model_state_dict"], state)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if lack_of_memory(error) is not None:
            raise
        problem = str(error)[:200].partition("\n")[0]
        raise ConfigError(
            f"{folder}: its last checkpoint is not of this run ({problem}): bring back the one "
            "that it wrote, or start anew with --resume never"
        ) from error


def best_model_of(name: str, level: int | str, copies: LocalCopies | None = None) -> Path:
    """Return the checkpoint of a run folder, or of a codec of the package: `builtin:<name>`.

    That of a run at a URL is fetched into `copies`.
    """
    if is_url(name):
        return fetch_run(name, copies or LocalCopies()) / BEST_NAME
    builtin = name.removeprefix("builtin:")
    if builtin == name:
        return Path(name) / BEST_NAME
    path = _BUILTIN_DIR / f"{builtin}_level_{level}.pth"
    if path.parent != _BUILTIN_DIR or not is_file(path):
        raise ConfigError(
            f"training.init_from {name}: no such codec of level {level} is in the package: there "
            "are builtin:scenes, for the built-in example's levels 0 to 4, and folders of runs"
        )
    return path


def refuse_other_kind(job: Job, caches: Caches) -> None:
    """Raise ConfigError unless that run has a model for the job's levels, of its architecture.

    Its features have to be of the same detector too: its standardisation goes on with its weights.
    """
    start = run_to_begin_from(job)
    if start is None:
        return
    info = read_run_info(best_model_of(start, job.level, job.copies), job.trusted)
    detector = caches.train[0].manifest.detector["weights_sha256"]
    pairs = (
        ("of level", list(info.levels), list(caches.levels)),
        ("with model", info.config.model.architecture(), job.config.model.architecture()),
        ("of detector weights", info.detector_weights_sha256[:12], detector[:12]),
    )
    for what, its, wanted in pairs:
        if its != wanted:
            raise ConfigError(
                f"training.init_from {start}: a run {what} {_told(its, wanted)}, this one is "
                f"{what} {_told(wanted, its)}: name a run of the same kind"
            )


def _told(value: object, other: object) -> str:
    """Return the value in words; of a section only the keys in which the other differs."""
    if isinstance(value, dict) and isinstance(other, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if other.get(k) != v)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
