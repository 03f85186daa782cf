"""Write findings as a folder: an offline HTML page, Markdown, and all figures as CSV, JSON, SVG."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from analyze.detection.sensitivity import write_weights
from analyze.report.findings import Findings
from analyze.report.page import plots_of, tables_of
from analyze.report.page_formats import page_html, page_markdown
from analyze.report.sections import ReportOrigin, make_page
from analyze.report.tables import csv_text
from analyze.streams.ensemble import write_ensemble

_JSON = "report.json"
_WRITTEN_BY_OTHERS = ("ensemble.yaml", "channel_weights.json", "index.html")


def write_report(findings: Findings, provenance: ReportOrigin, folder: Path | str) -> Path:
    """Fill `folder` (made if need be) and return the path of its index.html."""
    folder = Path(folder)
    page = make_page(findings, provenance)
    _remove_earlier(folder)
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    for plot in plots_of(page):
        files[f"plots/{plot.name}.png"] = plot.light_png
        files[f"plots/{plot.name}.svg"] = plot.svg
    for block in tables_of(page):
        files[f"{block.name}.csv"] = csv_text(block.table).encode()
    files["report.md"] = page_markdown(page, plots.name).encode()
    content = _json(findings, provenance, [*files, *_WRITTEN_BY_OTHERS])
    for name, data in ({_JSON: content.encode()} | files).items():
        (folder / name).write_bytes(data)
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


def _remove_earlier(folder: Path) -> None:
    """Remove the files of an earlier report, which would be taken for this one's."""
    try:
        names = json.loads((folder / _JSON).read_text(encoding="utf-8"))["files"]
        paths = [folder / name for name in names]
    except (OSError, ValueError, LookupError, TypeError):
        return  # there is none
    for path in paths:
        # Whoever may have changed the list: nothing elsewhere.
        if path.resolve().is_relative_to(folder.resolve()) and path.is_file():
            path.unlink()


def _json(findings: Findings, provenance: ReportOrigin, files: list[str]) -> str:
    """Return all findings; arrays as lists, and what was not asked for as null or empty."""
    worst, sensitivity = findings.worst, findings.sensitivity
    content = {
        "result": dataclasses.asdict(findings.result),
        "allocation": _allocation(findings),
        "anchors": [dataclasses.asdict(each) for each in findings.anchors],
        "comparisons": [dataclasses.asdict(each) for each in findings.comparisons],
        "matrix": findings.matrix and dataclasses.asdict(findings.matrix),
        "sensitivity": sensitivity and dataclasses.asdict(sensitivity),
        "worst_images": worst and {
            "combination": worst.combination,
            "images": [dataclasses.asdict(each) for each in worst.images],
        },
        "levels": [
            {
                "level": each.level,
                "run": each.run,
                "latent_rates": [dataclasses.asdict(rate) for rate in each.latent_rates],
                "histogram": each.histogram and dataclasses.asdict(each.histogram),
            }
            for each in findings.level_pictures
        ],
        "trained": [dataclasses.asdict(each) for each in findings.trained],
        "suggestions": [dataclasses.asdict(each) for each in findings.suggestions],
        "made_by": dataclasses.asdict(provenance),
        "files": files,
    }  # fmt: skip
    return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"


def _allocation(findings: Findings) -> dict[str, Any] | None:
    found = findings.allocation
    if found is None:
        return None
    return {
        "target": dataclasses.asdict(found.allocation.target),
        "met": found.allocation.met,
        "why": found.allocation.why,
        "chosen": dataclasses.asdict(found.allocation.combination),
        "bound": found.allocation.bound,
        "tried": [
            {"combination": dataclasses.asdict(choice), "drop": drop}
            for choice, drop in found.allocation.tried
        ],
        "verified_drop": found.allocation.verified_drop,
        "combination": dataclasses.asdict(found.combination),
        "saving": dataclasses.asdict(found.saving),
    }


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: such a figure is null, as one that was not measured."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
