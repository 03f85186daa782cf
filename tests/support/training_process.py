"""train-level in processes that can be killed, and what their runs left on disk."""

from __future__ import annotations

import csv
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support.forked import start
from tests.support.tiny_study import TinyStudy
from train.cli import train_level

_OF_TIME = {"seconds", "epoch_seconds", "epoch_waited", "steps_per_s", "data_wait_share"}


class Asked:
    """A signal that comes after so many questions."""

    def __init__(self, after: int) -> None:
        self._left = after

    @property
    def received(self) -> int | None:
        self._left -= 1
        return 15 if self._left < 0 else None


def options_of(study: TinyStudy, out: Path, *more: str) -> list[str]:
    """Options of train-level on the study, its runs below `out`."""
    return [
        "--config", str(study.config_file), "--features", str(study.root), "--out", str(out),
        "--device", "cpu", *more,
    ]  # fmt: skip


def start_training(
    options: Sequence[str], output: Path, environment: Mapping[str, str] | None = None, *,
    own_group: bool = False, largest_file: int | None = None,
) -> BaseProcess:  # fmt: skip
    """Start the command in a process of its own; what it prints goes to a file.

    `own_group`: with the processes that it starts. `largest_file`: what a file may have, in bytes.
    """
    return start(_train, list(options), output, environment or {}, own_group, largest_file)


def start_ranks(
    options: Sequence[str], outputs: Sequence[Path], largest_file: int | None = None
) -> list[BaseProcess]:
    """Start processes that train together, as torchrun does, but that nobody ends for another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{port}",
        "WORLD_SIZE": f"{len(outputs)}",
    }
    return [
        start_training(
            options, output, {**together, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"},
            largest_file=largest_file,
        )
        for rank, output in enumerate(outputs)
    ]  # fmt: skip


def wait_for(process: BaseProcess, condition: Callable[[], bool], timeout_s: float = 300) -> None:
    """Return when the condition holds or the process has ended."""
    deadline = time.monotonic() + timeout_s
    while process.is_alive() and not condition():
        assert time.monotonic() < deadline, "the process neither ended nor did what was awaited"
        time.sleep(0.002)


def training_state(path: Path) -> dict[str, Any]:
    """A checkpoint without what depends on the time that things took."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return _without_times(content)  # type: ignore[no-any-return]


def rows_without_times(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the columns of time."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key not in _OF_TIME} for row in rows]


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Name the places where two nested states differ in a single bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [where]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for key in one for d in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (mine, its) in pairs for d in differences(mine, its, f"{where}[{i}]")]
    return [] if type(one) is type(other) and one == other else [where]


def _without_times(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _without_times(value) for key, value in state.items() if key not in _OF_TIME}
    return state


def _train(
    options: list[str], output: Path, environment: Mapping[str, str], own_group: bool,
    largest_file: int | None,
) -> None:  # fmt: skip
    os.environ.update(environment)
    if own_group:
        os.setsid()
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    torch.set_num_threads(1)
    with output.open("w", encoding="utf-8") as file:
        sys.stdout = sys.stderr = file
        train_level(options)
