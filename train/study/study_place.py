"""Where the runs of a study lie: a folder of this machine, or one at a URL with its copy here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from configs.schema.config import Config
from data.places.local_copies import LocalCopies
from data.places.mirrored_folder import MirroredFolder
from data.places.object_store import is_url
from train.loop.job import Job
from train.runs.checkpoint import BEST_NAME
from train.runs.remote_runs import fetch_run, fetch_seen, mirror_of_runs, split_run_url
from train.runs.run_folder import CONFIG_NAME, runs_in
from train.runs.run_record import RANDOM, RECORD_NAME

log = logging.getLogger(__name__)


class StudyPlace:
    """The folder below which a study's runs are written; of a URL, its copy on this machine."""

    def __init__(self, place: str | Path | None, copies: LocalCopies) -> None:
        """Take a folder or a URL; None: the folder that the configuration names."""
        self._copies = copies
        self._mirror: MirroredFolder | None = None
        self.out = place if place is None else Path(place)
        self.url: str | None = None
        if isinstance(place, str) and is_url(place):
            self._mirror = mirror_of_runs(place, copies)
            self.out, self.url = self._mirror.path, place

    def fetch(self, jobs: Sequence[Job]) -> None:
        """Fetch the runs at the URL that could be those of the jobs: of level, lambda and seed.

        With all files where one may go on, with its model where it is finished.
        """
        mirror = self._mirror
        if mirror is None:
            return
        mirror.fetch({CONFIG_NAME, RECORD_NAME})
        for job in (job.settled() for job in jobs):
            for folder, record, config in runs_in(job.parent):
                theirs, its = config.training, job.config.training
                if (theirs.lmbda, theirs.seed) != (its.lmbda, its.seed):
                    continue
                is_over = record.finished is not None and theirs.epochs == its.epochs
                name = folder.relative_to(mirror.path).as_posix()
                mirror.fetch({BEST_NAME} if is_over else None, below=name)

    @contextmanager
    def sending(self, is_writer: bool) -> Iterator[None]:
        """Send what the runs write while the body runs, if they lie at a URL."""
        if self._mirror is None or not is_writer:
            yield
            return
        log.info("%s: runs are written in %s, and sent", self._mirror.remote, self.out)
        with self._mirror.sending():
            yield

    def shown(self, folder: Path | None) -> str:
        """Return what to tell a user of a run's folder."""
        return str(folder) if folder is None else self._copies.shown(folder)


def place_of_study(
    out: str | Path | None, config: Config, level: int | str | None, copies: LocalCopies
) -> StudyPlace:
    """Return where `--out` or `training.save_dir` say that runs are to lie."""
    training = config.training
    save_dir = training.random_level_save_dir if level == RANDOM else training.save_dir
    if out is None and is_url(save_dir):
        out = save_dir.rstrip("/").rpartition("/")[0]
    return StudyPlace(out, copies)


def fetch_resumed(run: str, copies: LocalCopies) -> tuple[str, str, tuple[str, ...]]:
    """Return the URL below which a run at a URL lies, its folder here, and those of what it sees.

    All are fetched.
    """
    folder = fetch_run(run, copies, whole=True)
    seen = fetch_seen(run, folder, copies)
    return split_run_url(run)[0], str(folder), tuple(map(str, seen))
