"""An analysis' pieces on a Ray cluster: each is a task, whose results are kept."""

from __future__ import annotations

import logging
from pathlib import Path

from analyze.analysis import scratch_folder
from analyze.facts.kept_results import Kept
from analyze.pieces import measure_piece, pieces_left
from analyze.request import AnalysisRequest, Wanted
from data.system.ray_cluster import connected
from data.system.ray_tasks import TaskEnd, run_tasks, share_of
from data.system.stop_signals import StopSignals

_LOG = logging.getLogger(__name__)


def measure_on_ray(
    request: AnalysisRequest, wanted: Wanted, scratch: Path, kept: Kept, *, address: str,
    num_cpus: float | None, num_gpus: float | None, log_level: str,
) -> None:  # fmt: skip
    """Measure what `analyze` would, as far as it is runs and anchors, on the cluster at an address.

    The numbers are what each task takes, see `share_of`. All nodes need the folders of `kept` and
    `scratch`. What cannot be measured is a warning: `analyze` meets it again, and tells it in its
    own way. Raises as `analyze`, `connected` and `share_of`.
    """
    assert kept.folder is not None, "results have to be kept to be found"
    left = pieces_left(request, wanted, scratch, kept)
    if not left:
        _LOG.info("all runs and anchors were measured before: the cluster is not needed")
        return
    with connected(address) as cluster, scratch_folder(scratch) as folder:
        share = share_of(cluster, str(request.device), num_cpus, num_gpus)
        names = [piece.name for _, piece in left]
        arguments = [(of, piece, kept.folder, Path(folder)) for of, piece in left]
        done = 0
        # Not entered: a signal ends the command, as without a cluster, and its tasks with it.
        for place, told in run_tasks(
            measure_piece, arguments, names, share, log_level=log_level, stop=StopSignals()
        ):
            if not isinstance(told, TaskEnd):
                continue
            done += 1
            if told.error is None:
                _LOG.info("%d of %d measured: %s", done, len(left), names[place])
            else:
                _LOG.warning("%s: is measured here instead: %s", names[place], told.error)
