"""A chain of a study at URLs, on a node of a cluster: with copies of the node's own, and sent.

A node may come to a chain that another one has begun, and that it has itself begun before: what
was sent is what all of them know.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import ConfigError, MachineError, UserError
from data.places.mirrored_folder import MirroredFolder
from data.places.object_store import is_url
from data.remote.node_copies import NodeCopies, naming_node, on_this_node
from data.system.locks import held
from train.loop.job import Job
from train.runs.checkpoint import BEST_NAME
from train.runs.remote_runs import fetch_seen, mirror_of_runs, run_here
from train.runs.run_folder import (
    CONFIG_NAME,
    LOCK_NAME,
    load_run_config,
    settings_but_epochs,
)
from train.runs.run_record import RECORD_NAME, RunRecord
from train.study.chain import RunOutcome

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyCopies:
    """What of a study lies at URLs."""

    nodes: NodeCopies
    out: str | None
    """Where its runs are written; None: in a folder that all nodes see."""
    context: Sequence[str] = ()
    """Runs that its codecs see."""
    resumed: str | None = None
    """The one run, below `out`, that goes on."""

    def are_of(self, jobs: Sequence[Job]) -> bool:
        """Say whether anything that these settled jobs read or write lies at a URL."""
        begun_from = (job.config.training.init_from for job in jobs)
        places = (self.nodes.features.given, self.out, *self.context, *begun_from)
        return any(place is not None and is_url(place) for place in places)

    def open(self, chain: Sequence[Job]) -> MirroredFolder | None:
        """Bring this node's copies up to date; return what sends the runs of the chain, or None.

        `chain` is of settled jobs. Raises one line for the user, which names the node.
        """
        copies = self.nodes.copies
        with naming_node():
            self.nodes.open()
            for run in self.context:
                run_here(run, copies)
            if self.out is None:
                return None
            mirror = mirror_of_runs(self.out, copies)
            _take_over(mirror, _OwnRuns(chain, mirror.path))
            if self.resumed is not None:
                fetch_seen(self.resumed, copies.path_of(self.resumed), copies)
            return mirror


def sent(outcomes: Iterator[RunOutcome], mirror: MirroredFolder | None) -> Iterator[RunOutcome]:
    """Yield how runs end, each when all that was written until then is sent.

    One whose files could not be sent has failed. What went wrong is told with the node's name.
    """
    while True:
        outcome: RunOutcome | None = None
        try:
            with naming_node(), nullcontext() if mirror is None else mirror.sending():
                if (outcome := next(outcomes, None)) is None:
                    return
                if outcome.error is not None:
                    outcome = replace(outcome, error=on_this_node(outcome.error))
                elif mirror is not None:
                    _require_sent(outcome, mirror)
        except UserError as error:
            if outcome is None:
                raise
            log.error("%s", error)
            if outcome.error is None:
                outcome = replace(outcome, folder=None, error=str(error), exit_code=error.exit_code)
        yield outcome


def _require_sent(outcome: RunOutcome, mirror: MirroredFolder) -> None:
    """Raise MachineError for a run that another command had when this one began."""
    folder = outcome.folder
    if folder is None or not folder.is_relative_to(mirror.path):
        return
    if not mirror.sends((folder / RECORD_NAME).relative_to(mirror.path).as_posix()):
        raise MachineError(
            f"{folder}: is trained and was not sent, as another command had it: run the same "
            "command again, which sends it"
        )


def _take_over(mirror: MirroredFolder, own: _OwnRuns) -> None:
    """Fetch what of these runs was sent, and send them alone: others are another process's."""
    for parent in own.parents:
        # What a run is of does not change: who trains others here does not notice.
        mirror.fetch({CONFIG_NAME}, below=parent.relative_to(mirror.path).as_posix())
    for folder in own.folders():
        name = folder.relative_to(mirror.path).as_posix()
        if mirror.remote.size(f"{name}/{RECORD_NAME}") is None:
            continue  # sent last: nobody else can have gone on with it
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(held(folder / LOCK_NAME))
            except OSError:  # trained here by another command; if not, who trains it says what is
                own.leave(folder)
                continue
            mirror.give_way(name)
        mirror.fetch({CONFIG_NAME, RECORD_NAME}, below=name)
        mirror.fetch({BEST_NAME} if own.is_over(folder) else None, below=name)
    mirror.send_only(lambda name: own.has(mirror.path / Path(*Path(name).parts[:2])))


class _OwnRuns:
    """The run folders below `out` that may be a chain's: of its level and settings, or named."""

    def __init__(self, chain: Sequence[Job], out: Path) -> None:
        self._epochs = {
            (job.parent, settings_but_epochs(job.config)): job.config.training.epochs
            for job in chain
        }
        resumed = (job.resume for job in chain if job.resume is not None)
        self._named = {folder for folder in resumed if folder.is_relative_to(out)}
        self._known: dict[Path, bool] = {}

    @property
    def parents(self) -> set[Path]:
        """Return the folders in which they lie, but for the named."""
        return {parent for parent, _ in self._epochs}

    def folders(self) -> list[Path]:
        """Return those that there are, and the named."""
        found = {folder for parent in self.parents for folder in parent.glob("run_*")}
        return sorted(self._named | set(filter(self.has, found)))

    def has(self, folder: Path) -> bool:
        """Say whether a folder is one of them; while it says nothing of itself it is not."""
        if folder in self._named:
            return True
        if folder not in self._known:
            try:
                self._known[folder] = self._key(folder) in self._epochs
            except ConfigError:
                return False
        return self._known[folder]

    def leave(self, folder: Path) -> None:
        """Take a folder for none of them."""
        self._named.discard(folder)
        self._known[folder] = False

    def is_over(self, folder: Path) -> bool:
        """Say whether nobody goes on with a run: it is finished, and of so many epochs as asked."""
        if folder in self._named:
            return False
        try:
            finished = RunRecord.load(folder).finished is not None
        except ConfigError:
            return False
        epochs = load_run_config(folder).training.epochs
        return finished and epochs == self._epochs[self._key(folder)]

    def _key(self, folder: Path) -> tuple[Path, str]:
        return folder.parent, settings_but_epochs(load_run_config(folder))
