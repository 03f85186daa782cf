"""Seconds by the clock from Enter until there is something: the help, the first training step."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.report import Cell, Goal, Table, main
from tests.benchmarks.startup import script_of

ROUNDS = 3
MOST_S = {"train-level --help": 0.5, "train-level, first step": 5.0}
DATA = ("--set", "data.splits.train.num_scenes=16", "--set", "data.splits.val.num_scenes=4")
CODEC: tuple[str, ...] = ()  # what differs from the default one
SMALL = {"ROUNDS": 0, "CODEC": ("--set", "model.n_hidden=8", "--set", "model.n_channels=12")}

# The command itself, but that its first step ends the process once the device is done with it.
TO_FIRST_STEP = """
import os, sys
import train.cli
share_cores = train.cli.share_cores
def then_watch():
    share_cores()
    import torch
    from train.loop.steps import Step
    make_step = Step.__call__
    def first(*arguments):
        make_step(*arguments)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        print("first step", flush=True)
        os._exit(0)
    Step.__call__ = first
train.cli.share_cores = then_watch
train.cli.train_level()
"""


def run(folder: Path, device: str = "cuda") -> Iterator[Table]:
    """Measure on the built-in scenes; the first time is told apart: the disk is cold then."""
    common = [*DATA, "--device", device]
    help_s = _taken([script_of("train-level"), "--help"], "Usage:", folder)
    extract = [sys.executable, "-c", script_of("extract-features"), "--split", "train"]
    subprocess.run([*extract, "--split", "val", *common], cwd=folder, check=True)
    step = [TO_FIRST_STEP, "--level", "0", "--resume", "never", *CODEC, *common]
    step_s = _taken(step, "first step", folder)
    taken = dict(zip(MOST_S, (help_s, step_s), strict=True))
    rows: list[list[Cell]] = [
        [name, first, median(others or [first])] for name, (first, *others) in taken.items()
    ]
    yield Table(
        title="first_step: seconds from Enter",
        columns=["", "the first time", "then"],
        rows=rows,
        goals=[
            Goal(what=f"{name}, s", ratio=median(others or [first]), at_most=MOST_S[name])
            for name, (first, *others) in taken.items()
        ],
    )


def _taken(command: Sequence[str], awaited: str, folder: Path) -> list[float]:
    return [_until(command, awaited, folder) for _ in range(1 + ROUNDS)]


def _until(command: Sequence[str], awaited: str, folder: Path) -> float:
    """Return the seconds of a process that prints what is awaited and ends."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", *command], cwd=folder, check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    assert awaited in done.stdout, done.stdout + done.stderr
    return seconds


if __name__ == "__main__":
    main("first_step", run)
