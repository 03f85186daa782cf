"""Write a result as a folder: one offline HTML page, Markdown, CSV and the plots."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analyze.plots import Plot, make_plots
from analyze.results import AnalysisResult
from analyze.tables import Table, csv_text, detection_table, level_table, markdown, measured

_DEFINITIONS = (
    ("share", "the level's share of all feature values of the split"),
    ("MSE", "in the features' own units, decoded from the real bitstreams"),
    ("PSNR", "10 log10(range² / MSE), range = largest minus smallest value of the level in the "
             "split's cache"),
    ("est BPP", "bits per feature position from the likelihoods: total bits / total positions"),
    ("real BPP", "bits per feature position from actual bitstreams, every byte of the header "
                 "included"),
    ("bits/px", "bits of the actual bitstreams per pixel of the original images"),
    ("enc ms, dec ms", "mean per image, map in memory to bitstream and back"),
    ("mAP", "COCO 0.50:0.95 with this level alone compressed and the others as cached"),
)  # fmt: skip

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1f2328; --soft: #59636e;
  --line: #d1d9e0; --panel: #f6f8fa; --warn: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --ink: #e6edf3;
  --soft: #9198a1; --line: #3d444d; --panel: #161b22; --warn: #d29922; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 1.75rem 0 .5rem; }
p, dd, figcaption { color: var(--soft); } code { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; font-size: .9rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { background: var(--panel); } tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--panel); }
td:first-child { max-width: 45vw; white-space: normal; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
figure { margin: 0; } img { width: 100%; height: auto; border-radius: 6px; }
.missing { border-left: 4px solid var(--warn); background: var(--panel); padding: .25rem 1rem; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem; }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """How and when a report came about; `facts` are name -> value lines at its end."""

    created: str
    command: str
    facts: dict[str, str]


def write_report(result: AnalysisResult, provenance: Provenance, folder: Path) -> Path:
    """Fill `folder` (made if need be) and return the path of its index.html."""
    plots = make_plots(result)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in plots:
        (folder / "plots" / f"{plot.name}.png").write_bytes(plot.light_png)
    (folder / "levels.csv").write_text(csv_text(level_table(result)), encoding="utf-8")
    (folder / "detection.csv").write_text(csv_text(detection_table(result)), encoding="utf-8")
    (folder / "report.md").write_text(report_markdown(result, provenance, plots), encoding="utf-8")
    page = folder / "index.html"
    page.write_text(report_html(result, provenance, plots), encoding="utf-8")
    return page


def report_markdown(result: AnalysisResult, provenance: Provenance, plots: Sequence[Plot]) -> str:
    """Return the whole report as Markdown, which names the plots' files."""
    parts = [f"# {_title(result)}", _summary(result)]
    if result.missing:
        parts += ["## Missing", "\n".join(f"- {line}" for line in result.missing)]
    parts += ["## Levels", markdown(level_table(result))]
    parts += ["## Detection", markdown(detection_table(result))]
    parts += [f"![{plot.title}](plots/{plot.name}.png)" for plot in plots]
    parts += ["## Columns", "\n".join(f"- **{name}**: {text}" for name, text in _DEFINITIONS)]
    if runs := _run_lines(result):
        parts += ["## Runs", "\n".join(f"- {name}: `{run}`" for name, run in runs)]
    parts += ["## Made by", "\n".join(f"- {name}: {text}" for name, text in _origin(provenance))]
    return "\n\n".join(parts) + "\n"


def report_html(result: AnalysisResult, provenance: Provenance, plots: Sequence[Plot]) -> str:
    """Return the whole report as one page that needs no other file and no network."""
    missing = "".join(f"<li>{html.escape(line)}</li>" for line in result.missing)
    sections = [
        f"<h1>{html.escape(_title(result))}</h1><p>{html.escape(_summary(result))}</p>",
        f'<div class="missing"><h2>Missing</h2><ul>{missing}</ul></div>' if missing else "",
        f"<h2>Levels</h2>{_html_table(level_table(result))}",
        f"<h2>Detection</h2>{_html_table(detection_table(result))}",
        f'<h2>Plots</h2><div class="plots">{"".join(map(_html_figure, plots))}</div>',
        f"<h2>Columns</h2>{_html_list(_DEFINITIONS)}",
    ]
    if runs := _run_lines(result):
        sections.append(f"<h2>Runs</h2>{_html_list(runs)}")
    sections.append(f"<h2>Made by</h2>{_html_list(_origin(provenance))}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(_title(result))}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _title(result: AnalysisResult) -> str:
    return f"Feature compression by level: {result.dataset}, {result.split}"


def _summary(result: AnalysisResult) -> str:
    return f"{result.num_images} images, features of {result.detector}."


def _run_lines(result: AnalysisResult) -> list[tuple[str, str]]:
    return [
        (f"level {row.facts.level}, lambda {run.lmbda:.3g}", run.run)
        for row, run in measured(result)
    ]


def _origin(provenance: Provenance) -> list[tuple[str, str]]:
    return [
        ("command", provenance.command),
        ("time", provenance.created),
        *provenance.facts.items(),
    ]


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in table.titles)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
        for line in table.cells
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _html_figure(plot: Plot) -> str:
    light, dark = (_data_uri(png) for png in (plot.light_png, plot.dark_png))
    title = html.escape(plot.title)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{title}"></picture><figcaption>{title}</figcaption></figure>'
    )


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _html_list(lines: Sequence[tuple[str, str]]) -> str:
    entries = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in lines
    )
    return f"<dl>{entries}</dl>"
