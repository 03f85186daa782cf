"""What measurements on a GPU share: a cache of random maps, settings, and waiting for the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.benchmarks.synthetic_cache import lay_out_cache, plan_cache

STREAMED: Mapping[str, Any] = {"resident": "never"}
"""Settings of training with which a level is streamed, however small it is."""


def laid_out(folder: Path, num_samples: int, level_shapes: Mapping[int, tuple[int, int]]) -> Path:
    """Return the folder of a new cache of random maps of so many samples, in the page cache."""
    lay_out_cache(folder, *plan_cache(num_samples, level_shapes))
    return folder


def wait_for(device: str) -> None:
    """Return when a GPU has done all that it was asked for."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def seconds_of(function: Callable[[], object], device: str, *, rounds: int, calls: int) -> float:
    """Return the median seconds of a call, over rounds of so many; a first round warms up."""
    taken = []
    for number in range(rounds + 1):
        wait_for(device)
        start = time.perf_counter()
        for _ in range(calls):
            function()
        wait_for(device)
        if number:
            taken.append((time.perf_counter() - start) / calls)
    return median(taken)


def recorded(function: Callable[[], object], device: str) -> Callable[[], object]:
    """Return what repeats a function as a CUDA graph, so that asking takes no time; CPU: itself."""
    if device == "cpu":
        return function
    beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(beside):
        for _ in range(3):
            function()
    torch.cuda.current_stream(device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay
