"""Measure every run against one split's cache, then detection on what the codecs decoded."""

from __future__ import annotations

from pathlib import Path

from analyze.findings import Findings
from analyze.kept import Kept
from analyze.level_results import analysis_result, measured_runs
from analyze.split import AnalysisRequest
from analyze.workbench import open_workbench


def analyze(request: AnalysisRequest, scratch: Path, kept: Kept) -> Findings:
    """Analyse; decoded maps lie under `scratch` while it runs, results stay in `kept`.

    Raises CacheError without a cache of the split, if it is stale, or for runs trained on another
    detector's features. Anything else that is missing is a line of the result.
    """
    with open_workbench(request, scratch, kept) as bench:
        measurements = measured_runs(bench)
        result = analysis_result(bench, measurements)
    return Findings(result=result)
