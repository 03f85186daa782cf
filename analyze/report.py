"""Write findings as a folder: an offline HTML page, Markdown, and all figures as CSV, JSON, SVG."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from analyze.ensemble import write_ensemble
from analyze.findings import Findings
from analyze.page import plots_of, tables_of
from analyze.page_html import page_html
from analyze.page_markdown import page_markdown
from analyze.sections import Provenance, make_page
from analyze.sensitivity import write_weights
from analyze.tables import csv_text


def write_report(findings: Findings, provenance: Provenance, folder: Path) -> Path:
    """Fill `folder` (made if need be) and return the path of its index.html."""
    page = make_page(findings, provenance)
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    for plot in plots_of(page):
        (plots / f"{plot.name}.png").write_bytes(plot.light_png)
        (plots / f"{plot.name}.svg").write_bytes(plot.svg)
    for block in tables_of(page):
        (folder / f"{block.name}.csv").write_text(csv_text(block.table), encoding="utf-8")
    (folder / "report.json").write_text(_json(findings, provenance), encoding="utf-8")
    (folder / "report.md").write_text(page_markdown(page, plots.name), encoding="utf-8")
    if findings.allocation is not None:
        write_ensemble(
            folder / "ensemble.yaml",
            findings.allocation.ensemble,
            note=findings.allocation.combination.name,
        )
    if findings.sensitivity is not None:
        write_weights(folder / "channel_weights.json", findings.sensitivity)
    index = folder / "index.html"
    index.write_text(page_html(page), encoding="utf-8")
    return index


def _json(findings: Findings, provenance: Provenance) -> str:
    content = {
        "result": dataclasses.asdict(findings.result),
        "allocation": _allocation(findings),
        "suggestions": [dataclasses.asdict(each) for each in findings.suggestions],
        "made_by": dataclasses.asdict(provenance),
    }
    return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"


def _allocation(findings: Findings) -> dict[str, Any] | None:
    found = findings.allocation
    if found is None:
        return None
    return {
        "target": dataclasses.asdict(found.allocation.target),
        "met": found.allocation.met,
        "why": found.allocation.why,
        "verified_drop": found.allocation.verified_drop,
        "combination": dataclasses.asdict(found.combination),
        "saving": dataclasses.asdict(found.saving),
    }


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: such a figure is null, as one that was not measured."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
