"""Write findings as a folder: an offline HTML page, Markdown, and all figures as CSV, JSON, SVG."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from analyze.allocation.allocate import AllocationFinding
from analyze.curves.seed_spread import spread_over_seeds
from analyze.detection.sensitivity import weights_text
from analyze.image_choice.ways import candidates_text
from analyze.report.findings import Findings, how_chosen
from analyze.report.input_rates import pixel_ratio, with_input_keys
from analyze.report.page import Page, page_html, page_markdown, plots_of, tables_of
from analyze.report.sections import ReportOrigin, make_page
from analyze.report.tables import csv_text
from analyze.streams.ensemble import ensemble_text
from configs.errors import ConfigError
from configs.plain_json import parse_json
from data.system.atomic_files import encoded
from data.system.locks import held

_JSON = "report.json"
_INDEX = "index.html"
_PLOTS = "plots"
LAST_NAMES = (_JSON, _INDEX)
"""Of the files that say what a whole report is."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a report's folder, made if need be, against other analyses; ConfigError if one has it.

    What cannot be written there is told by whoever is to write it.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_if_empty, folder)
            stack.enter_context(held(folder / "report.lock"))
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: another analysis writes its report here: choose another --report"
            ) from None
        except OSError:
            pass
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def write_report(findings: Findings, provenance: ReportOrigin, folder: Path | str) -> Path:
    """Fill `folder` (made if need be) and return the path of its index.html.

    An earlier report stays until all of this one lies beside it. Raises ConfigError if the folder
    cannot be written.
    """
    folder = Path(folder)
    files = _files(make_page(findings, provenance), findings, folder)
    files[_JSON] = _json(findings, provenance, list(files))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".new-") as beside:
            for name, content in files.items():
                path = Path(beside, name)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content if isinstance(content, bytes) else encoded(content))
            _swap_in(folder, Path(beside), list(files))
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: the report cannot be written "
            f"({error.strerror or error}): make room, or choose another --report"
        ) from error
    return folder / _INDEX


def _files(page: Page, findings: Findings, folder: Path) -> dict[str, str | bytes]:
    """Return name -> content of all files but report.json."""
    files: dict[str, str | bytes] = {}
    for plot in plots_of(page):
        files[f"{_PLOTS}/{plot.name}.png"] = plot.light_png
        files[f"{_PLOTS}/{plot.name}.svg"] = plot.svg
    for block in tables_of(page):
        files[f"{block.name}.csv"] = csv_text(block.table)
    if findings.allocation is not None:
        files["ensemble.yaml"] = ensemble_text(
            findings.allocation.ensemble, folder, note=findings.allocation.combination.name
        )
        files["candidates.yaml"] = candidates_text(findings.allocation.weighed.ways, folder)
    if findings.sensitivity is not None:
        files["channel_weights.json"] = weights_text(findings.sensitivity)
    files["report.md"] = page_markdown(page, _PLOTS)
    files[_INDEX] = page_html(page)
    return files


def _swap_in(folder: Path, beside: Path, names: Sequence[str]) -> None:
    """Move a report's files to their places, then remove those that only an earlier one had.

    report.json, which says what is an earlier report's, comes last.
    """
    earlier = _files_of_earlier(folder)
    (folder / _PLOTS).mkdir(exist_ok=True)
    for name in names:
        if name == _JSON:
            for path in earlier - {folder / each for each in names}:
                path.unlink()
        (beside / name).replace(folder / name)


def _files_of_earlier(folder: Path) -> set[Path]:
    """Return the files of an earlier report, which would be taken for this one's."""
    try:
        names = parse_json((folder / _JSON).read_bytes())["files"]
        paths = {folder / name for name in names}
        # Whoever may have changed the list: nothing elsewhere.
        return {
            path
            for path in paths
            if path.resolve().is_relative_to(folder.resolve()) and path.is_file()
        }
    except (OSError, ValueError, LookupError, TypeError):
        return set()  # there is none


def _json(findings: Findings, provenance: ReportOrigin, files: list[str]) -> str:
    """Return all findings; arrays as lists, and what was not asked for as null or empty."""
    worst, sensitivity = findings.worst, findings.sensitivity
    content = {
        "result": dataclasses.asdict(findings.result),
        "allocation": _allocation(findings.allocation),
        "other_seeds": [_allocation(each) for each in findings.other_seeds],
        "seeds": [dataclasses.asdict(each) for each in spread_over_seeds(findings.result)],
        "anchors": [dataclasses.asdict(each) for each in findings.anchors],
        "comparisons": [dataclasses.asdict(each) for each in findings.comparisons],
        "approaches": [
            {
                **dataclasses.asdict(each),
                "cost": (cost := findings.approach_costs.get(each.approach))
                and dataclasses.asdict(cost),
            }
            for each in findings.approaches
        ],
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
    content = with_input_keys(content, pixel_ratio(findings.result))
    return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"


def _allocation(found: AllocationFinding | None) -> dict[str, Any] | None:
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
        "how_chosen": how_chosen(found),
        "cross_fit": found.cross_fit and dataclasses.asdict(found.cross_fit),
        "per_image": found.per_image and dataclasses.asdict(found.per_image),
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
