"""Tables: their columns once, for terminal, Markdown, HTML and CSV alike."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from analyze.facts.results import AnalysisResult, LevelRow, Measurement
from extract.accuracy.bootstrap import Accuracy, Interval

Value = str | int | float | None
ABSENT = "-"
_WORD = re.compile(r"[A-Za-z]{3}")
_ZERO = re.compile(r"[-+]0(\.0*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Texts for people (`titles`, `cells`), and for CSV the values in full (`names`, `values`)."""

    titles: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    title: str
    value: Callable[[LevelRow], Value]
    format: str = "{}"
    show: Callable[[Value], str] | None = None
    """What people read of a value, where a format cannot say it."""

    def shown(self, row: LevelRow) -> str:
        """Return the cell of a row."""
        value = self.value(row)
        return shown(value, self.format) if self.show is None else self.show(value)


def _of_run(name: str) -> Callable[[LevelRow], Value]:
    def read(row: LevelRow) -> Value:
        value: Value = getattr(row.measurement, name) if row.measurement else None
        return value

    return read


def _resolution(row: LevelRow) -> str:
    return "{}x{}".format(*row.facts.resolution_hw)


def _gap(run: Measurement | None) -> float | None:
    """Return how much more is really sent than estimated, as a share of the estimate."""
    return run.real_bpp / run.estimated_bpp - 1 if run is not None and run.estimated_bpp else None


def _shown_gap(gap: Value) -> str:
    """A codec that sends next to nothing sends a hundred times that in heads and ends."""
    return "> +999%" if isinstance(gap, float) and gap > 9.99 else shown(gap, "{:+.1%}")


_LEVEL_COLUMNS = {
    "level": _Column(title="level", value=lambda row: row.facts.level),
    "lambda": _Column(title="lambda", value=_of_run("lmbda"), format="{:.3g}"),
    "resolution": _Column(title="map HxW", value=_resolution),
    "stride_px": _Column(title="stride", value=lambda row: row.facts.stride_px),
    "share": _Column(title="share", value=lambda row: row.facts.share, format="{:.1%}"),
    "num_parameters": _Column(title="params", value=_of_run("num_parameters"), format="{:,}"),
    "mse": _Column(title="MSE", value=_of_run("mse"), format="{:.4g}"),
    "psnr_db": _Column(title="PSNR dB", value=_of_run("psnr_db"), format="{:.2f}"),
    "estimated_bpp": _Column(title="est BPP", value=_of_run("estimated_bpp"), format="{:.4g}"),
    "real_bpp": _Column(title="real BPP", value=_of_run("real_bpp"), format="{:.4g}"),
    "rate_gap": _Column(title="gap", value=lambda row: _gap(row.measurement), show=_shown_gap),
    "bits_per_pixel": _Column(title="bits/px", value=_of_run("bits_per_pixel"), format="{:.4g}"),
    "encode_ms": _Column(title="enc ms", value=_of_run("encode_ms"), format="{:.1f}"),
    "decode_ms": _Column(title="dec ms", value=_of_run("decode_ms"), format="{:.1f}"),
    "map": _Column(
        title="mAP",
        value=lambda row: row.alone.map if row.alone else None,
        format="{:.4f}",
    ),
}
# Between lambda and resolution, where runs differ in it.
_SEED = _Column(title="seed", value=lambda row: row.seed)
_LEARNER = _Column(title="by", value=lambda row: row.learner)
_BESIDE = _Column(title="beside", value=lambda row: row.beside.removeprefix("beside ") or None)
# In the file alone: they would make the table too wide to read.
_CSV_ONLY: dict[str, Callable[[LevelRow], Value]] = {
    "map_50": lambda row: row.alone.map_50 if row.alone else None,
    "map_low": lambda row: row.alone.interval.low if row.alone and row.alone.interval else None,
    "map_high": lambda row: row.alone.interval.high if row.alone and row.alone.interval else None,
    "map_drop": lambda row: row.alone.drop if row.alone else None,
    "payload_bpp": _of_run("payload_bpp"),
    "value_range": _of_run("value_range"),
    "key": lambda row: row.facts.key,
    "num_channels": lambda row: row.facts.num_channels,
    "learner": lambda row: row.learner,
    "run": _of_run("run"),
    "model_sha256": lambda row: row.model_sha256,
    "seed": lambda row: row.seed,
    "beside": lambda row: row.beside,
    "beside_run": lambda row: row.beside_run,
}


_FIGURES = ("map", "map_50", "small", "medium", "large")
_NO_ENDS = (None, None)


def level_table(result: AnalysisResult) -> Table:
    """Return one line per level and run."""
    columns = list(_LEVEL_COLUMNS.values())
    told = list(columns)
    if any(row.beside for row in result.rows):
        told.insert(2, _BESIDE)
    if any(row.learner for row in result.rows):
        told.insert(2, _LEARNER)
    if any(row.seed is not None for row in result.rows):
        told.insert(2, _SEED)
    return Table(
        titles=tuple(column.title for column in told),
        cells=tuple(tuple(column.shown(row) for column in told) for row in result.rows),
        names=(*_LEVEL_COLUMNS, *_CSV_ONLY),
        values=tuple(
            (
                *(column.value(row) for column in columns),
                *(value(row) for value in _CSV_ONLY.values()),
            )
            for row in result.rows
        ),
    )


def detection_table(result: AnalysisResult) -> Table:
    """Return one line for the original features and one per combination."""
    lines: list[tuple[str, float | None, Accuracy | None]] = [
        ("original features", None, result.original)
    ]
    lines += [(each.name, each.bits_per_pixel, each.accuracy) for each in result.combinations]
    table = accuracy_table("features", lines)
    more: list[tuple[Value, ...]] = [
        (each.chosen_by.text if each.chosen_by else None, each.approach or None, each.mse)
        for each in result.combinations
    ]
    return replace(
        table,
        names=(*table.names, "chosen_by", "approach", "mse"),
        values=tuple(
            (*line, *own) for line, own in zip(table.values, [(None,) * 3, *more], strict=True)
        ),
    )


def accuracy_table(title: str, lines: Sequence[tuple[str, float | None, Accuracy | None]]) -> Table:
    """Return a table of names, bits per pixel and all figures of detection."""
    cells = []
    values: list[tuple[Value, ...]] = []
    for name, bits_per_pixel, accuracy in lines:
        figures = [getattr(accuracy, figure) if accuracy else None for figure in _FIGURES]
        drop = accuracy.drop if accuracy else None
        intervals = (accuracy.interval, accuracy.drop_interval) if accuracy else (None, None)
        ends = [end for each in intervals for end in ((each.low, each.high) if each else _NO_ENDS)]
        values.append((name, bits_per_pixel, *figures, drop, *ends))
        # pycocotools says -1 where the split has no object of that size.
        texts = [shown(None if figure == -1 else figure, "{:.4f}") for figure in figures]
        cells.append(
            (
                name,
                shown(bits_per_pixel, "{:.4g}"),
                texts[0],
                _show_interval(intervals[0]),
                shown(drop, "{:.4f}"),
                _show_interval(intervals[1]),
                *texts[1:],
            )
        )
    return Table(
        titles=(
            title, "bits/px", "mAP", "95 %", "drop", "95 %", "AP50", "small", "medium", "large",
        ),
        cells=tuple(cells),
        names=(
            title, "bits_per_pixel", *_FIGURES, "drop",
            "map_low", "map_high", "drop_low", "drop_high",
        ),
        values=tuple(values),
    )  # fmt: skip


def word_columns(table: Table) -> frozenset[int]:
    """Return the places of the columns that hold words, the first among them."""
    return frozenset({0}) | {
        place for line in table.cells for place, cell in enumerate(line) if _WORD.search(cell)
    }


def plain_text(table: Table) -> str:
    """Return aligned lines for a terminal: words to the left, numbers to the right."""
    lines = [table.titles, *table.cells]
    words = word_columns(table)
    widths = [max(len(line[place]) for line in lines) for place in range(len(table.titles))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(table: Table) -> str:
    """Return the table as GitHub-flavoured Markdown."""
    words = word_columns(table)
    rule = tuple(":--" if place in words else "--:" for place in range(len(table.titles)))
    lines: Sequence[tuple[str, ...]] = [table.titles, rule, *table.cells]
    # A name may hold what ends a cell or a line.
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def csv_text(table: Table) -> str:
    """Return the values in full precision; an absent one is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.names)
    writer.writerows(table.values)
    return text.getvalue()


def _show_interval(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.low):
        return ABSENT
    return f"{shown(interval.low, '{:.3f}')}..{shown(interval.high, '{:.3f}')}"


def shown(value: Value, template: str) -> str:
    """Return what people read of a value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    text = template.format(value)
    return text.lstrip("-+") if _ZERO.fullmatch(text) else text
