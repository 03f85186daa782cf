"""Processes that are forks of a server which has imported what commands need: seconds are saved."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

_T = TypeVar("_T")

_SERVER = multiprocessing.get_context("forkserver")
PRELOADED = [
    "train.cli", "train.study.study", "extract.detector.freshness",
    "extract.cli", "extract.dry_run.estimate", "data.images.views", "data.writing.cast_kernel",
    "scipy.linalg", "matplotlib", "tests.support.drawn_scenes", "tests.support.loaded_kernels",
]  # fmt: skip
"""Of all kinds of processes: there is one server, and who needs it first has it started."""


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Call a function in a process of its own."""
    _SERVER.set_forkserver_preload(PRELOADED)
    process = _SERVER.Process(target=target, args=arguments)
    process.start()
    return process


def result_of(function: Callable[..., _T], *arguments: Any) -> _T:
    """Return what a function returns in a process of its own; raises what it raises there."""
    _SERVER.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=_SERVER) as processes:
        return processes.submit(function, *arguments).result()
