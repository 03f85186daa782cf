"""An analysis' pieces on a Ray cluster: each is a task, whose results are kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from analyze.analysis import scratch_folder
from analyze.facts.kept_results import Kept
from analyze.pieces import Piece, measure_piece, pieces_left
from analyze.request import AnalysisRequest, Wanted
from configs.options import FeaturesPlace
from data.places.mirrored_folder import MirroredFolder
from data.places.object_store import is_url
from data.remote.node_copies import NodeCopies, naming_node
from data.system.ray_cluster import connected
from data.system.ray_tasks import TaskEnd, run_tasks, share_of
from data.system.stop_signals import StopSignals
from train.runs.remote_runs import run_here

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisCopies:
    """What of an analysis lies at URLs: each task works in copies on its own node."""

    nodes: NodeCopies
    runs: Sequence[str]
    """Run folders, and folders of runs."""
    kept: str | None
    """Where results are kept; None: in a folder that all nodes see."""

    @classmethod
    def of_command(
        cls, features: FeaturesPlace, split: str, runs: Sequence[Path | str], kept: Path | str,
        report: Path | str | None,
    ) -> AnalysisCopies | None:  # fmt: skip
        """Take what a command was given; None if nothing of it lies at a URL."""
        if not any(is_url(each) for each in (features.given, *runs, kept, report) if each):
            return None
        return cls(
            nodes=NodeCopies.of_command(features, (split,)),
            runs=[str(each) for each in runs if is_url(each)],
            kept=str(kept) if is_url(kept) else None,
        )

    def fetch_kept(self) -> MirroredFolder | None:
        """Fetch what others have found; return what sends the rest, if it is sent."""
        if self.kept is None:
            return None
        mirror = self.nodes.copies.mirror(self.kept)
        mirror.fetch_lacking()
        return mirror

    def measure(self, request: AnalysisRequest, piece: Piece, kept: Path) -> Iterator[None]:
        """Measure a piece in copies on this node, as `measure_piece`; send what it finds.

        Raises one line for the user, which names the node.
        """
        copies = self.nodes.copies
        with naming_node():
            self.nodes.open()
            for run in piece.runs:
                if any(run.is_relative_to(copies.path_of(url)) for url in self.runs):
                    run_here(str(copies.url_of(run)), copies)
            mirror = self.fetch_kept()
            with mirror.sending() if mirror else nullcontext():
                yield from measure_piece(request, piece, kept, copies.folder / "scratch")


def measure_on_ray(
    request: AnalysisRequest, wanted: Wanted, scratch: Path, kept: Kept, *, address: str,
    num_cpus: float | None, num_gpus: float | None, log_level: str,
    at_urls: AnalysisCopies | None = None,
) -> None:  # fmt: skip
    """Measure what `analyze` would, as far as it is runs and anchors, on the cluster at an address.

    The numbers are what each task takes, see `share_of`. All nodes need the folders of `kept` and
    `scratch`, but for what lies `at_urls`: that each task fetches, and sends. What cannot be
    measured is a warning: `analyze` meets it again, and tells it in its own way. Raises as
    `analyze`, `connected` and `share_of`.
    """
    assert kept.folder is not None, "results have to be kept to be found"
    left = pieces_left(request, wanted, scratch, kept)
    if not left:
        _LOG.info("all runs and anchors were measured before: the cluster is not needed")
        return
    with connected(address) as cluster, scratch_folder(scratch) as folder:
        share = share_of(cluster, str(request.device), num_cpus, num_gpus)
        names = [piece.name for _, piece in left]
        arguments = [(of, piece, kept.folder, Path(folder), at_urls) for of, piece in left]
        done = 0
        # Not entered: a signal ends the command, as without a cluster, and its tasks with it.
        for place, told in run_tasks(
            _measure_in_task, arguments, names, share, log_level=log_level, stop=StopSignals()
        ):
            if not isinstance(told, TaskEnd):
                continue
            done += 1
            if told.error is None:
                _LOG.info("%d of %d measured: %s", done, len(left), names[place])
            else:
                _LOG.warning("%s: is measured here instead: %s", names[place], told.error)
    if at_urls is not None:
        at_urls.fetch_kept()


def _measure_in_task(
    request: AnalysisRequest, piece: Piece, kept: Path, scratch: Path,
    at_urls: AnalysisCopies | None,
) -> Iterator[None]:  # fmt: skip
    if at_urls is None:
        yield from measure_piece(request, piece, kept, scratch)
    else:
        yield from at_urls.measure(request, piece, kept)
