"""Run what depends on one image alone on all cores, an image on each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from data.system.threads import in_order

Result = TypeVar("Result")

_MOST_CORES = 8  # each holds the maps of an image


def num_threads(device: str) -> int:
    """Return how many images are computed at once; a GPU takes them one by one."""
    return min(_MOST_CORES, torch.get_num_threads()) if torch.device(device).type == "cpu" else 1


def per_image(
    function: Callable[[int], Result], indices: Iterable[int], device: str
) -> Iterator[Result]:
    """Yield the function's result for each index, in order; it runs without gradients."""

    def run(index: int) -> Result:
        with torch.no_grad():
            return function(index)

    if (threads := num_threads(device)) > 1:
        yield from in_order(run, list(indices), num_threads=threads, ahead=threads)
    else:
        yield from map(run, indices)
