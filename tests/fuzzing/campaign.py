"""Alter files of all kinds many times, in a process whose memory and time are bounded.

An altered file may crash or stop a library of C's: the process dies, what it was reading is kept,
and another one goes on.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzzing.attack import FAULT, LOG_NAME, MOST_AT_ONCE, attack, last_file
from tests.fuzzing.kinds import KINDS
from tests.support.forked import start


@dataclass(kw_only=True)
class Outcome:
    """How often an altered file gave data, our own error, or a fault."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """What happened, and where -> how often."""
    seconds: float = 0.0
    """Of a core, for all files together."""
    most_seconds: float = 0.0
    """For one of them."""

    @property
    def num_files(self) -> int:
        """Altered files that were read."""
        return self.counts.total()

    def note(self, outcome: str, seconds: float = 0.0, fault: str = "") -> None:
        """Count what came of one file."""
        self.counts[outcome] += 1
        self.seconds += seconds
        self.most_seconds = max(self.most_seconds, seconds)
        if fault:
            self.faults[fault] += 1


def campaign(
    folder: Path, num_files: int, names: Sequence[str] = tuple(KINDS), *, first_seed: int = 0
) -> dict[str, Outcome]:
    """Alter each kind of file so often; files that made faults stay in `folder`."""
    outcomes = {name: Outcome() for name in names}
    due = dict.fromkeys(names, num_files)
    while due:
        process = start(attack, folder, due, first_seed)
        process.join()
        log = folder / LOG_NAME
        done: Counter[str] = Counter()
        for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
            name = line.pop("kind")
            outcomes[name].note(**line)
            done[name] += 1
        log.unlink()
        if process.exitcode:
            unfinished = [name for name in due if done[name] < min(due[name], MOST_AT_ONCE)]
            name = unfinished[0] if unfinished else list(due)[-1]
            assert process.exitcode < 0, f"{name}: the attack itself is at fault"
            died = signal.Signals(-process.exitcode).name
            outcomes[name].note(FAULT, fault=f"the process ends by {died}")
            shutil.copy(last_file(folder, name), folder / f"{died}-{first_seed}")
        missing = {name: num_files - outcome.num_files for name, outcome in outcomes.items()}
        due = {name: number for name, number in missing.items() if number > 0}
        first_seed += 1
    return outcomes


def table(outcomes: Mapping[str, Outcome]) -> str:
    """Return what came of a campaign, a line for each kind, as Markdown."""
    rows = ["| file | altered | data | own error | faults | seconds for one, at most |"]
    rows.append("|---|---|---|---|---|---|")
    for name, each in outcomes.items():
        counts: list[Any] = [each.num_files, each.counts["data"], each.counts["own error"]]
        cells = [name, *counts, each.counts[FAULT], f"{each.most_seconds:.2f}"]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)
