"""A benchmark's result: a table, the goals beside what was measured, and bench/results.json."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from data.system.atomic_files import write_atomically
from tests.benchmarks.machine import machine_facts

RESULTS = Path("bench/results.json")

Cell = str | float | int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A measured ratio and the range that it is to lie in; a miss is told, never raised."""

    what: str
    ratio: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the ratio lies in its range."""
        return (self.at_least is None or self.ratio >= self.at_least) and (
            self.at_most is None or self.ratio <= self.at_most
        )

    def line(self) -> str:
        """Return the goal as one line of text."""
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in ((">=", self.at_least), ("<=", self.at_most))
            if bound is not None
        ]
        verdict = "met" if self.is_met else "missed"
        return f"{self.what}: {self.ratio:.3f}, target {' and '.join(bounds)}: {verdict}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table of a benchmark; `note` says what the reader has to know about it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    goals: Sequence[Goal] = ()
    note: str = ""

    def text(self) -> str:
        """Return the table as aligned text, the goals below it."""
        cells = [list(self.columns), *([_shown(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [f"== {self.title} ==", *([self.note] if self.note else [])]
        for row in cells:
            first = row[0].ljust(widths[0])
            others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([first, *others]).rstrip())
        lines += [goal.line() for goal in self.goals]
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return the table for results.json, each goal with its verdict."""
        raw = dataclasses.asdict(self)
        for goal, written in zip(self.goals, raw["goals"], strict=True):
            written["met"] = goal.is_met
        return raw


def main(name: str, run: Callable[[Path], Iterable[Table]]) -> None:
    """Run one benchmark as a script: print its tables and put them into bench/results.json."""
    parser = argparse.ArgumentParser(description=sys.modules[run.__module__].__doc__)
    parser.add_argument("--folder", type=Path, help="where scratch files go; default: bench/")
    folder = parser.parse_args().folder or RESULTS.parent
    RESULTS.parent.mkdir(exist_ok=True)  # by default the folder of scratch files, too
    # Not the system's folder for temporary files: that may be memory, and cold reads need a disk.
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as scratch:
        tables = list(run(Path(scratch)))
    for table in tables:
        print(f"\n{table.text()}", flush=True)
    save(name, tables)


def save(name: str, tables: Sequence[Table]) -> None:
    """Replace one benchmark's part of the results; those of another machine are dropped."""
    RESULTS.parent.mkdir(exist_ok=True)
    facts = machine_facts()
    try:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    except FileNotFoundError:
        results = {}
    if results.get("machine") != facts:
        results = {"machine": facts, "benchmarks": {}}
    results["benchmarks"][name] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", f"tests.benchmarks.{name}", *sys.argv[1:]]),
        "tables": [table.to_json() for table in tables],
    }
    write_atomically(RESULTS, json.dumps(results, indent=1).encode() + b"\n")


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
