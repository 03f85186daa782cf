"""What a report is made of: sections of blocks, written once, shown as HTML or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyze.plots.figures import Plot
from analyze.report.tables import Table


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
