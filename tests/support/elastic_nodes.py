"""Nodes of an elastic training on one machine: torchrun's own agents and workers, as forks.

`torchrun` is a command around `elastic_launch`, which is called here: agents, rendezvous, restarts
and the environment of the workers are the real ones. Only processes begin in another way: as forks
of one that has torch imported, instead of importing it eight times.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.support.forked import start
from train.cli import train_level

_MAX_RESTARTS = 3


def start_nodes(
    options: Sequence[str], folder: Path, *, num_nodes: int, processes_per_node: int
) -> list[BaseProcess]:
    """Start agents that train together with these options; each worker prints to a file.

    The file is `output_of(folder, rank, restarts)`, and names the process in its first line.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start(_agent, list(options), folder, num_nodes, processes_per_node, port)
        for _ in range(num_nodes)
    ]


def output_of(folder: Path, rank: int, num_restarts: int) -> Path:
    return folder / f"output_{rank}_{num_restarts}"


def _agent(
    options: list[str], folder: Path, num_nodes: int, processes_per_node: int, port: int
) -> None:
    config = LaunchConfig(
        min_nodes=num_nodes, max_nodes=num_nodes, nproc_per_node=processes_per_node,
        rdzv_backend="c10d", rdzv_endpoint=f"127.0.0.1:{port}", run_id="test",
        local_addr="127.0.0.1", max_restarts=_MAX_RESTARTS, start_method="fork",
        monitor_interval=0.05,
    )  # fmt: skip
    elastic_launch(config, _worker)(options, folder)


def _worker(options: list[str], folder: Path) -> None:
    torch.set_num_threads(1)
    rank, num_restarts = (int(os.environ[n]) for n in ("RANK", "TORCHELASTIC_RESTART_COUNT"))
    output = output_of(folder, rank, num_restarts)
    with output.open("w", buffering=1, encoding="utf-8") as file:
        sys.stdout = sys.stderr = file
        print(os.getpid())
        train_level(options, standalone_mode=False)
