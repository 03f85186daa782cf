"""Run folders: their names, who may train in them, and how runs are found again."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from configs.config_files import check_config, dump_config, read_yaml
from configs.errors import ConfigError, UserError
from configs.own_code import code_of, is_own
from configs.schema.config import Config
from data.places.object_store import is_url
from data.system.atomic_files import remove_leftovers, write_atomically
from data.system.locks import held
from train.runs.checkpoint import BEST_NAME, LAST_NAME
from train.runs.run_record import FUSED, RANDOM, RECORD_NAME, RunKeys, RunRecord

_LOG = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
SUMMARY_NAME = "training_summary.txt"
# Where and how often files are written, what a GPU keeps, and how it is asked, does not make
# another run.
_NOT_OF_THE_RUN = {
    "save_dir", "random_level_save_dir", "save_interval_s", "cuda_graphs", "resident",
}  # fmt: skip
LOCK_NAME = "training.lock"
CONTEXT = "context"
"""Among a run's fingerprints: the models of `training.context`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run folder with a best model in it."""

    folder: Path
    level: int
    lmbda: float
    config: Config


def run_parent(config: Config, level: int | str, out: Path | None) -> Path:
    """Return the folder in which the runs of a level, or of `random` or `fused`, lie."""
    training = config.training
    save_dir = Path(training.random_level_save_dir if level == RANDOM else training.save_dir)
    if out is not None:
        save_dir = out / save_dir.name
    return save_dir if level == RANDOM else save_dir.with_name(f"{save_dir.name}_level_{level}")


def make_run_folder(parent: Path, config: Config, now: datetime, *, tag: str = "") -> Path:
    """Create <parent>/run_<time>_lambda_.._lr_.._bs_..<tag> with config.yaml in it."""
    training = config.training
    name = (
        f"run_{now:%Y%m%d_%H%M%S}_lambda_{training.lmbda:.2e}_lr_{training.learning_rate:.2e}"
        f"_bs_{training.batch_size}{tag}"
    )
    for suffix in ("", *(f"_{number}" for number in range(2, 1000))):
        folder = parent / f"{name}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be made ({error.strerror}): choose another --out"
            ) from error
        save_config(folder, config)
        return folder
    raise ConfigError(f"{parent / name}: a thousand runs began in this second")


def save_config(folder: Path, config: Config) -> None:
    """Write config.yaml."""
    write_atomically(folder / CONFIG_NAME, dump_config(config).encode())


def load_run_config(folder: Path | str) -> Config:
    """Read a run's config.yaml; raises ConfigError if it is missing or wrong."""
    path = Path(folder) / CONFIG_NAME
    return check_config(read_yaml(path, str(path)), str(path))


def difference_of_settings(there: Config, now: Config) -> str | None:
    """Say in words the first setting in which two runs would differ, or None."""
    for section in ("model", "training", "validation"):
        mine, theirs = (
            getattr(config, section).model_dump(mode="json", by_alias=True)
            for config in (now, there)
        )
        for key, value in mine.items():
            if key == CONTEXT and section == "training":
                continue  # folders may have moved: their models are among the fingerprints
            if value != theirs[key]:
                return f"{section}.{key} is {theirs[key]!r} there, {value!r} now"
    return None


def same_run_before(
    parent: Path, config: Config, fingerprints: Mapping[str, str]
) -> tuple[Path, RunRecord] | None:
    """Return the newest run of the same settings, caches and own code, finished or not.

    Where there is one but for the code, a line of the log says that it is passed over.
    """
    code = code_fingerprints(config)
    of_other_code = None
    for folder, record, there in runs_in(parent):
        if _settings(there) != _settings(config):
            continue
        if record.continued and _fixes_epochs(config):
            continue  # its learning rates are not those of a run that has so many epochs
        if record.cache_fingerprints == fingerprints:
            return folder, record
        if of_other_code is None and {**record.cache_fingerprints, **code} == fingerprints:
            of_other_code = folder
    if of_other_code is not None:
        _LOG.info(
            "%s: is of other code of %s: beginning anew (--resume %s goes on with it all the same)",
            of_other_code, " or ".join(code), of_other_code,
        )  # fmt: skip
    return None


def shorter_run_before(
    parent: Path, config: Config, fingerprints: Mapping[str, str]
) -> tuple[Path, RunRecord] | None:
    """Return the finished run that is the same but for fewer epochs, of several the longest.

    More epochs make of it what a run that has them from the start becomes. None where they do not:
    a cosine goes by their number from the first one on.
    """
    if _fixes_epochs(config):
        return None
    found = [
        (record.epochs, folder, record)
        for folder, record, there in runs_in(parent)
        if record.finished is not None
        and (folder / LAST_NAME).is_file()
        and record.cache_fingerprints == fingerprints
        and there.training.epochs < config.training.epochs
        and _settings(there, "epochs") == _settings(config, "epochs")
    ]
    return max(found, key=lambda run: run[:2])[1:] if found else None


def copy_run(source: Path, folder: Path) -> None:
    """Copy what a run has written to a folder that is there; `run.json` is left to the caller.

    Without it nothing takes the folder for a run to go on with.
    """
    left = {RECORD_NAME, CONFIG_NAME, BEST_NAME, LOCK_NAME, SUMMARY_NAME}
    shutil.copytree(
        source, folder, dirs_exist_ok=True,
        ignore=lambda where, names: left & set(names) if Path(where) == source else set(),
    )  # fmt: skip
    # Last: a folder with a best model in it is analysed.
    shutil.copy2(source / BEST_NAME, folder / BEST_NAME)


def runs_in(parent: Path) -> Iterator[tuple[Path, RunRecord, Config]]:
    """Yield the runs of a folder, newest first."""
    for folder in sorted(parent.glob("run_*"), reverse=True):
        try:
            yield folder, RunRecord.load(folder), load_run_config(folder)
        except ConfigError:
            continue  # of an older version, or damaged: not to be gone on with


def _fixes_epochs(config: Config) -> bool:
    schedule = config.training.lr_schedule
    return schedule.enabled and schedule.name == "cosine"


def code_fingerprints(config: Config) -> dict[str, str]:
    """Return setting -> hash of the user's own code that it names; nothing for what is ours."""
    named = {"model.name": config.model.name, "training.distortion": config.training.distortion}
    return {setting: code_of(name) for setting, name in named.items() if is_own(name)}


def context_fingerprint(context: Sequence[Mapping[RunKeys, str]]) -> dict[str, str]:
    """Return what tells a run beside these models from others; nothing of one that codes alone."""
    return {CONTEXT: ", ".join(each["model_sha256"] for each in context)} if context else {}


def find_runs(out: Path | str) -> list[Run]:
    """Return all runs with a best model below `out`, oldest first within each level."""
    runs = []
    for path in sorted(Path(out).glob(f"*_level_*/run_*/{BEST_NAME}")):
        match = re.search(r"_level_(\d+)$", path.parent.parent.name)
        if match and (path.parent / CONFIG_NAME).is_file():
            runs.append(open_run(path.parent, int(match[1])))
    return runs


def find_random_runs(out: Path | str) -> list[Path]:
    """Return the folders of all runs of `--level random` with a best model below `out`."""
    found = Path(out).glob(f"*_random_level_*/run_*/{BEST_NAME}")
    return [path.parent for path in sorted(found)]


def find_fused_runs(out: Path | str) -> list[Path]:
    """Return the folders of all runs of `--level fused` with a best model below `out`."""
    return [path.parent for path in sorted(Path(out).glob(f"*_level_{FUSED}/run_*/{BEST_NAME}"))]


def open_run(folder: Path | str, level: int | None = None) -> Run:
    """Return a run by its folder; raises ConfigError if there is no run in it."""
    folder = Path(folder)
    if level is None:
        match = re.search(r"_level_(\d+)$", folder.resolve().parent.name)
        if match is None:
            raise ConfigError(f"{folder}: lies in no folder *_level_<l>: name a run_* folder")
        level = int(match[1])
    if not (folder / CONFIG_NAME).is_file() or not (folder / BEST_NAME).is_file():
        raise ConfigError(f"{folder}: holds no finished run ({BEST_NAME} and {CONFIG_NAME})")
    config = load_run_config(folder)
    return Run(folder=folder, level=level, lmbda=config.training.lmbda, config=config)


def settings_but_epochs(config: Config) -> str:
    """Return a text that two runs share if one can go on as the other with other epochs."""
    return json.dumps(_settings(config, "epochs"), sort_keys=True, default=str)


def _settings(config: Config, *but: str) -> dict[str, Any]:
    training = config.training.model_dump(exclude={*_NOT_OF_THE_RUN, *but})
    # What was left to us was not compiled before there was auto; a run keeps what it began with.
    training["compile"] = training["compile"] is True
    if training.get("channel_weights", "variance") != "variance":
        training["channel_weights"] = "a file"  # whose content is among the fingerprints
    if training.get("init_from") is not None and not is_url(training["init_from"]):
        training["init_from"] = str(Path(training["init_from"]).resolve())
    training["context"] = len(training["context"])  # their models are among the fingerprints
    return {
        "model": config.model.architecture(),
        "training": training,
        "validation": config.validation.model_dump(),
    }


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; raises UserError if another one trains in it.

    The system lets go of the lock when a process dies, however it does.
    """
    path = folder / LOCK_NAME
    with ExitStack() as stack:
        try:
            stack.enter_context(held(path))
        except BlockingIOError:
            raise UserError(
                f"{folder}: another process trains this run: wait for it, "
                "or start a new one with --resume never"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be locked ({error.strerror}): choose another --out"
            ) from error
        remove_leftovers(folder)
        yield
