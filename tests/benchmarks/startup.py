"""CPU seconds until a command has printed its help, beside those of importing click alone."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.report import Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians

ROUNDS = 5
MOST_S = 0.5
CLICK = "import click"
COMMANDS = {
    "extract-features": "extract.cli:extract_features",
    "train-detector": "extract.detector_cli:train_detector",
    "train-level": "train.cli:train_level",
    "analyze-levels": "analyze.cli:analyze_levels",
    "compress-features": "analyze.streams_cli:compress_features",
    "decompress-features": "analyze.streams_cli:decompress_features",
}


def run(folder: Path) -> list[Table]:
    """Measure each command as its console script starts it."""
    scripts = {CLICK: CLICK}
    for name in COMMANDS:
        scripts[name] = script_of(name, "['--help']")
    measured = interleaved({name: _cpu_s(text) for name, text in scripts.items()}, rounds=ROUNDS)
    seconds = medians(measured)
    return [
        Table(
            title="startup: --help, seconds of CPU",
            columns=["", "s", "least", "most"],
            rows=[[name, seconds[name], min(all_), max(all_)] for name, all_ in measured.items()],
            goals=[
                Goal(what=f"{name} --help, s", ratio=seconds[name], at_most=MOST_S)
                for name in COMMANDS
            ],
        )
    ]


def script_of(name: str, arguments: str = "") -> str:
    """Return Python code that runs a command with these arguments, or with the process' own."""
    module, function = COMMANDS[name].split(":")
    return f"from {module} import {function}; {function}({arguments})"


def _cpu_s(script: str) -> Callable[[int], float]:
    def measure(number: int) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    return measure


if __name__ == "__main__":
    main("startup", run)
