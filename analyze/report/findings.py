"""Everything that one analysis found: plain values, from which the report is made."""

from __future__ import annotations

from dataclasses import dataclass

from analyze.allocation.allocate import AllocationFinding
from analyze.allocation.next_lambdas import Suggestion
from analyze.anchors.anchor_study import AnchorPoint
from analyze.curves.comparison import Comparison
from analyze.detection.sensitivity import Sensitivity
from analyze.facts.results import AnalysisResult
from analyze.measure.find_runs import TrainedRun
from analyze.measure.matrix import Matrix
from analyze.plots.picture_study import LevelPictures, WorstImages


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Parts that were not asked for, or could not be had, are empty or None."""

    result: AnalysisResult
    allocation: AllocationFinding | None = None
    sensitivity: Sensitivity | None = None
    anchors: tuple[AnchorPoint, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    matrix: Matrix | None = None
    suggestions: tuple[Suggestion, ...] = ()
    level_pictures: tuple[LevelPictures, ...] = ()
    worst: WorstImages | None = None
    trained: tuple[TrainedRun, ...] = ()
    """What training noted, where the split itself could not be analysed."""
