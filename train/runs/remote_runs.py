"""Runs at URLs: which of their files are fetched, and the order in which they are sent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from configs.errors import ConfigError
from data.places.local_copies import LocalCopies
from data.places.mirrored_folder import MirroredFolder
from data.places.object_store import is_url
from train.runs.checkpoint import BEST_NAME, LAST_NAME, PREVIOUS_NAME
from train.runs.metrics import METRICS_NAME
from train.runs.run_folder import CONFIG_NAME
from train.runs.run_record import RECORD_NAME, RunRecord

MODEL_FILES = frozenset({BEST_NAME, CONFIG_NAME, RECORD_NAME, METRICS_NAME})
"""What a run's model is known by and measured with."""


def mirror_of_runs(url: str, copies: LocalCopies) -> MirroredFolder:
    """Return the folder at a URL below which runs lie, as `checkpoints` does."""
    # As a run writes them; run.json, which says that a run is finished, last.
    order = (BEST_NAME, LAST_NAME, RECORD_NAME)
    return copies.mirror(url, in_order=order, left_out=(PREVIOUS_NAME,))


def split_run_url(url: str) -> tuple[str, str]:
    """Return a run's URL as that of the folder that holds all runs, and the rest.

    ConfigError if it is no run's.
    """
    root, *names = url.rstrip("/").rsplit("/", 2)
    if not is_url(f"{root}/") or root.endswith("/"):
        raise ConfigError(f"{url}: is no run's folder: name one, .../..._level_<l>/run_...")
    return root, "/".join(names)


def fetch_run(url: str, copies: LocalCopies, *, whole: bool = False) -> Path:
    """Return the copy of a run's folder, with its best model, or `whole`, to go on with.

    Raises ConfigError if there is no run, and as `MirroredFolder.fetch` does.
    """
    root, name = split_run_url(url)
    mirror = mirror_of_runs(root, copies)
    found = mirror.fetch(None if whole else MODEL_FILES, below=name)
    needed = CONFIG_NAME if whole else BEST_NAME
    if f"{name}/{needed}" not in found:
        raise ConfigError(f"{url}: no run: it holds no {needed}: name a run folder")
    return mirror.path / name


def fetch_seen(url: str, folder: Path, copies: LocalCopies) -> tuple[Path, ...]:
    """Return the copies of the runs that a run at a URL sees, fetched with what those see in turn.

    `folder` is its copy. They are looked for beside it, where they lie that are moved together; one
    that is not there is told by whoever needs it.
    """
    if not (folder / RECORD_NAME).is_file():
        return ()
    root, _ = split_run_url(url)
    mirror, seen = mirror_of_runs(root, copies), []
    for its in RunRecord.load(folder).context:
        name = "/".join(Path(its["run"]).parts[-2:])
        mirror.fetch(MODEL_FILES, below=name)
        fetch_seen(f"{root}/{name}", mirror.path / name, copies)
        seen.append(mirror.path / name)
    return tuple(seen)


def fetch_named(runs: Iterable[Path], source: Path | str, copies: LocalCopies) -> None:
    """Fetch those runs that a file at a URL names by paths relative to it, if they are there.

    What others may have written there leads to no other bucket than that of its `source`.
    """
    if not is_url(source):
        return
    bucket = "/".join([*str(source).split("/")[:3], ""])
    for run in set(runs):
        url = copies.url_of(run) or ""
        if url.startswith(bucket) and "/" in url.removeprefix(bucket):
            root, name = split_run_url(url)
            mirror_of_runs(root, copies).fetch(MODEL_FILES, below=name)


def run_here(run: Path | str, copies: LocalCopies) -> Path:
    """Return a run's folder, of one at a URL the copy, with its best model and those it sees."""
    if not is_url(run):
        return Path(run)
    folder = fetch_run(str(run), copies)
    fetch_seen(str(run), folder, copies)
    return folder


def runs_here(checkpoints: Path | str, copies: LocalCopies) -> Path:
    """Return a folder of runs, of a URL the copy, with the best models of all of them."""
    if not is_url(checkpoints):
        return Path(checkpoints)
    mirror = mirror_of_runs(str(checkpoints), copies)
    mirror.fetch(MODEL_FILES)
    return mirror.path
