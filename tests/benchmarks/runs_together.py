"""Six runs of one level, of one command, against one run: samples a second of training.

Level 4 of the built-in scenes, batches of 32. What counts is the time in epochs: not the start, the
validation, the files.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.report import Goal, Table, main
from tests.benchmarks.startup import script_of
from train.runs.metrics import METRICS_NAME

LAMBDAS = ("0.01", "0.02", "0.04", "0.08", "0.16", "0.32")
LEVEL = "4"
NUM_SCENES = 1024
NUM_EPOCHS = 20
BATCH_SIZE = 32
CODEC: tuple[str, ...] = ()  # what differs from the default one
SMALL = {
    "LAMBDAS": ("0.01", "0.02"),
    "NUM_SCENES": 4,
    "NUM_EPOCHS": 2,
    "BATCH_SIZE": 2,
    "CODEC": ("--set", "model.n_hidden=8", "--set", "model.n_channels=12"),
}


def run(folder: Path, device: str = "cuda") -> Iterator[Table]:
    """Train one run, then all together."""
    common = [
        "--set", f"data.splits.train.num_scenes={NUM_SCENES}",
        "--set", "data.splits.val.num_scenes=4", "--device", device,
    ]  # fmt: skip
    _run("extract-features", ["--split", "train", "--split", "val", *common], folder)
    common += [
        *CODEC, "--level", LEVEL, "--epochs", str(NUM_EPOCHS), "--batch-size", str(BATCH_SIZE),
        "--set", f"validation.interval={NUM_EPOCHS}", "--set", "training.precision=bfloat16",
    ]  # fmt: skip
    rates, seconds = {}, {}
    for name, lambdas in (("one", LAMBDAS[:1]), ("together", LAMBDAS)):
        options = [option for value in lambdas for option in ("--lambda", value)]
        start = time.perf_counter()
        _run("train-level", [*common, *options, "--out", name], folder)
        seconds[name] = time.perf_counter() - start
        rates[name] = _samples_per_s(folder / name)
    one, together = sum(rates["one"]), sum(rates["together"])
    yield Table(
        title=f"runs_together: level {LEVEL}, {len(LAMBDAS)} lambdas, batches of {BATCH_SIZE}",
        columns=["", "samples/s", "command s"],
        rows=[["one run", one, seconds["one"]], ["all runs", together, seconds["together"]]],
        goals=[
            Goal(what="samples/s of six runs together / of one", ratio=together / one, at_least=4)
        ],
    )


def _run(name: str, options: Sequence[str], folder: Path) -> None:
    subprocess.run([sys.executable, "-c", script_of(name), *options], cwd=folder, check=True)


def _samples_per_s(runs: Path) -> list[float]:
    """Return each run's mean over its epochs but for the first, in which steps are recorded."""
    rates = []
    for file in sorted(runs.rglob(METRICS_NAME)):
        with file.open(newline="", encoding="utf-8") as lines:
            steps = [float(row["steps_per_s"]) for row in csv.DictReader(lines)][1:]
        rates.append(BATCH_SIZE * sum(steps) / len(steps))
    return rates


if __name__ == "__main__":
    main("runs_together", run)
