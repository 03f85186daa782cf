"""Everything that one analysis found."""

from __future__ import annotations

from dataclasses import dataclass

from analyze.results import AnalysisResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Plain values, from which the report and its files are made."""

    result: AnalysisResult
