"""Bits per pixel of the detector's input, beside those per pixel of the original images.

Both are of the same bits over the same images: they differ by the ratio of the two sums of pixels.
The detector's input is what it resizes an image to, before padding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from analyze.facts.results import AnalysisResult
from analyze.report.page import PageSection, TableBlock
from analyze.report.tables import Table, Value, shown

_TITLE, _INPUT_TITLE = "bits/px", "bits/in px"
_NAME, _INPUT_NAME = "bits_per_pixel", "bits_per_input_pixel"
_FORMAT = "{:.4g}"


def pixel_ratio(result: AnalysisResult) -> float | None:
    """Return pixels of the originals for one of the detector's input; None if nobody said."""
    return result.num_pixels / result.num_input_pixels if result.num_input_pixels else None


def with_input_rates(table: Table, ratio: float | None) -> Table:
    """Return a table with a column more behind each of bits per original pixel."""
    told = [place for place, title in enumerate(table.titles) if _TITLE in title]
    filed = [place for place, name in enumerate(table.names) if _NAME in name]
    if ratio is None:
        return table
    titles, names = list(table.titles), list(table.names)
    cells, values = [list(line) for line in table.cells], [list(line) for line in table.values]
    # From the last on, so that the places before stay as they are.
    for shown_at, place in sorted(zip(told, filed, strict=True), reverse=True):
        titles.insert(shown_at + 1, titles[shown_at].replace(_TITLE, _INPUT_TITLE))
        names.insert(place + 1, names[place].replace(_NAME, _INPUT_NAME))
        for line, texts in zip(values, cells, strict=True):
            rate = _of_input(line[place], ratio)
            line.insert(place + 1, rate)
            texts.insert(shown_at + 1, shown(rate, _FORMAT))
    return replace(
        table, titles=tuple(titles), names=tuple(names),
        cells=tuple(map(tuple, cells)), values=tuple(map(tuple, values)),
    )  # fmt: skip


def section_with_input_rates(section: PageSection, ratio: float | None) -> PageSection:
    """Return a section whose tables have these columns."""
    blocks = (
        replace(block, table=with_input_rates(block.table, ratio))
        if isinstance(block, TableBlock)
        else block
        for block in section.blocks
    )
    return replace(section, blocks=tuple(blocks))


def with_input_keys(content: Any, ratio: float | None) -> Any:
    """Return plain values with a key more beside each of bits per original pixel."""
    if isinstance(content, list | tuple):
        return [with_input_keys(each, ratio) for each in content]
    if not isinstance(content, dict):
        return content
    found = {}
    for key, value in content.items():
        found[key] = with_input_keys(value, ratio)
        if ratio is not None and str(key).endswith(_NAME):
            found[str(key).replace(_NAME, _INPUT_NAME)] = _spread_of_input(value, ratio)
    return found


def _spread_of_input(rates: Any, ratio: float) -> Any:
    """Return a rate, or the mean, smallest and largest of several seeds."""
    if isinstance(rates, dict):
        return {name: _of_input(rate, ratio) for name, rate in rates.items()}
    return _of_input(rates, ratio)


def _of_input(rate: Value, ratio: float) -> float | None:
    return None if rate is None else float(rate) * ratio
