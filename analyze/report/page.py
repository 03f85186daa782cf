"""A report: sections of blocks, as one HTML page that needs no other file, and as Markdown."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from analyze.plots.figures import Plot
from analyze.report.tables import Table, markdown, word_columns


@dataclass(frozen=True, kw_only=True, slots=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TableBlock:
    """A table, and the name of the CSV file that holds it in full precision."""

    name: str
    table: Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Pictures side by side."""

    plots: tuple[Plot, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Names and what they mean."""

    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """A list, e.g. of what is missing; `urgent` makes it stand out."""

    lines: tuple[str, ...]
    urgent: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """Commands or files, to be copied."""

    text: str


Block = Paragraph | TableBlock | Figures | Terms | Lines | Code


@dataclass(frozen=True, kw_only=True, slots=True)
class PageSection:
    """A heading and its blocks; `folded` sections are opened by a click."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A whole report."""

    title: str
    summary: str
    sections: tuple[PageSection, ...]


def tables_of(page: Page) -> list[TableBlock]:
    """Return every table of a page, in order."""
    return [block for block in _blocks(page.sections) if isinstance(block, TableBlock)]


def plots_of(page: Page) -> list[Plot]:
    """Return every picture of a page, in order."""
    return [
        plot
        for block in _blocks(page.sections)
        if isinstance(block, Figures)
        for plot in block.plots
    ]


def _blocks(sections: Sequence[PageSection]) -> list[Block]:
    return [block for section in sections for block in section.blocks]


def page_markdown(page: Page, plots_folder: str) -> str:
    """Return the whole page; its pictures lie in `plots_folder` beside it."""
    parts = [f"# {page.title}", page.summary]
    for section in page.sections:
        parts.append(f"## {section.title}")
        parts += [_as_markdown(block, plots_folder) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _as_markdown(block: Block, plots_folder: str) -> str:
    match block:
        case Paragraph(text=text):
            return text
        case TableBlock(table=table):
            return markdown(table)
        case Figures(plots=plots):
            return "\n\n".join(f"![{each.title}]({plots_folder}/{each.name}.png)" for each in plots)
        case Terms(entries=entries):
            return "\n".join(f"- **{name}**: {text}" for name, text in entries)
        case Lines(lines=lines):
            return "\n".join(f"- {line}" for line in lines)
        case Code(text=text):
            return f"```\n{text}\n```"


_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1f2328; --soft: #59636e;
  --line: #d1d9e0; --panel: #f6f8fa; --warn: #9a6700; --link: #0969da; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --ink: #e6edf3;
  --soft: #9198a1; --line: #3d444d; --panel: #161b22; --warn: #d29922; --link: #4493f8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .25rem 0; }
h2 { font-size: 1.15rem; margin: 1.5rem 0 .5rem; display: inline-block; }
section { border-top: 1px solid var(--line); margin-top: 1.25rem; }
section:first-of-type { border-top: 0; margin-top: 0; }
section:first-of-type h2 { margin-top: .5rem; }
p, dd, figcaption { color: var(--soft); margin: .4rem 0; } code { overflow-wrap: anywhere; }
nav { font-size: .9rem; } nav a { margin-right: .9rem; display: inline-block; }
a { color: var(--link); }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .75rem;
  overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; font-size: .875rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { background: var(--panel); } tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--panel); }
.words { text-align: left; } td.words:not(:first-child) { white-space: normal; min-width: 10rem; }
td:first-child { max-width: 45vw; white-space: normal; }
.plots { display: grid; gap: 1rem; margin: .75rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
figure { margin: 0; } img { width: 100%; height: auto; border-radius: 6px; }
.urgent { border-left: 4px solid var(--warn); background: var(--panel); padding: .5rem 1rem;
  margin: .5rem 0; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem; }
"""

_WORDS = ' class="words"'


def page_html(page: Page) -> str:
    """Return the whole page."""
    title = html.escape(page.title)
    links = "".join(
        f'<a href="#{_anchor(section)}">{html.escape(section.title)}</a>'
        for section in page.sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{title}</h1><p>{html.escape(page.summary)}</p><nav>{links}</nav>\n"
        + "\n".join(_section(section) for section in page.sections)
        + "\n</body></html>\n"
    )


def _section(section: PageSection) -> str:
    heading = f"<h2>{html.escape(section.title)}</h2>"
    content = "".join(_shown(block) for block in section.blocks)
    if section.folded:
        content = f"<details><summary>{heading}</summary>{content}</details>"
    else:
        content = heading + content
    return f'<section id="{_anchor(section)}">{content}</section>'


def _anchor(section: PageSection) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in section.title.lower())


def _shown(block: Block) -> str:
    match block:
        case Paragraph(text=text):
            return f"<p>{html.escape(text)}</p>"
        case TableBlock(table=table):
            return _table(table)
        case Figures(plots=plots):
            return f'<div class="plots">{"".join(map(_figure, plots))}</div>'
        case Terms(entries=entries):
            pairs = (
                f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
                for name, text in entries
            )
            return f"<dl>{''.join(pairs)}</dl>"
        case Lines(lines=lines, urgent=urgent):
            entries_html = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
            opened = '<ul class="urgent">' if urgent else "<ul>"
            return f"{opened}{entries_html}</ul>"
        case Code(text=text):
            return f"<pre>{html.escape(text)}</pre>"


def _table(table: Table) -> str:
    words = word_columns(table)

    def row(tag: str, line: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{_WORDS if place in words else ''}>{html.escape(cell)}</{tag}>"
            for place, cell in enumerate(line)
        )

    head = row("th", table.titles)
    rows = "".join(f"<tr>{row('td', line)}</tr>" for line in table.cells)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _figure(plot: Plot) -> str:
    light, dark = (_data_uri(png) for png in (plot.light_png, plot.dark_png))
    title = html.escape(plot.title)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{title}"></picture><figcaption>{title}</figcaption></figure>'
    )


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
