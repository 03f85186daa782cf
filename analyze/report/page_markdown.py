"""A report as Markdown, for people in a terminal; pictures are named, not held."""

from __future__ import annotations

from analyze.report.page import Block, Code, Figures, Lines, Page, Paragraph, TableBlock, Terms
from analyze.report.tables import markdown


def page_markdown(page: Page, plots_folder: str) -> str:
    """Return the whole page; its pictures lie in `plots_folder` beside it."""
    parts = [f"# {page.title}", page.summary]
    for section in page.sections:
        parts.append(f"## {section.title}")
        parts += [_shown(block, plots_folder) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(block: Block, plots_folder: str) -> str:
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
