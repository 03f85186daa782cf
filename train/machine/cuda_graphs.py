"""Training steps as CUDA graphs: a GPU is asked for a step once, not for each of its 600 kernels.

Asking takes 20 to 30 ms of Python and driver, computing takes a fast GPU 3 to 8. A graph is the
same kernels with the same operands and the same random numbers, so the results are the same.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from configs.errors import ConfigError

_STEPS_BEFORE = 3
"""Steps that run as usual first: libraries then have chosen their algorithms and memory, and what
a batch of such a shape asks to be compiled is."""
_MOST_GRAPHS = 8
"""Each keeps a step's memory; batches of further shapes are computed as usual."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    figures: Tensor


class StepGraphs:
    """Records steps, one for each key and learning rate, and repeats them."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._optimizers = optimizers
        self._recorded: dict[Hashable, _Recorded] = {}
        self._rates: list[float] = []
        self._steps_before: dict[Hashable, int] = {}
        # Only the fused Adam counts its steps on the GPU.
        self._is_possible = all(group.get("fused") for group in self._groups())

    def run(
        self, key: Hashable, inputs: Sequence[Tensor], compute: Callable[..., Tensor]
    ) -> Tensor:
        """Return what `compute(*inputs)` returns, valid until the next call.

        All that `compute` depends on besides the inputs, weights, optimisers and random numbers
        has to be in `key`, or to stay the same tensors. Raises ConfigError if it cannot be
        recorded.
        """
        rates = [group["lr"] for group in self._groups()]
        if rates != self._rates:  # a graph keeps the numbers that it was recorded with
            self.forget()
            self._rates = rates
        key = (key, *((each.shape, each.stride()) for each in inputs))
        recorded = self._recorded.get(key)
        if recorded is None:
            done = self._steps_before.get(key, 0)
            self._steps_before[key] = done + 1
            is_possible = self._is_possible and len(self._recorded) < _MOST_GRAPHS
            if done < _STEPS_BEFORE or not is_possible:
                return compute(*inputs)
            recorded = self._recorded[key] = self._record(inputs, compute)
        for its, given in zip(recorded.inputs, inputs, strict=True):
            its.copy_(given)
        recorded.graph.replay()
        return recorded.figures

    def forget(self) -> None:
        """Forget what is recorded: weights or optimisers lie elsewhere from now on."""
        for recorded in self._recorded.values():
            torch.cuda.synchronize(recorded.figures.device)  # the last one may still be under way
        self._recorded.clear()

    def _record(self, inputs: Sequence[Tensor], compute: Callable[..., Tensor]) -> _Recorded:
        graph, given = torch.cuda.CUDAGraph(), [each.clone() for each in inputs]
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)  # or they would keep memory of graphs before
        try:
            # Only this thread's calls count: another one reads batches ahead.
            recording = torch.cuda.graph(graph, capture_error_mode="thread_local")
            with _capturable(self._groups()), recording:
                figures = compute(*given)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # CUDA's random numbers are of no use after that: there is no going on as usual.
            raise ConfigError(
                f"training.cuda_graphs: a step cannot be recorded here "
                f"({str(error).strip().splitlines()[0]}): switch it off "
                "(--set training.cuda_graphs=false); the run goes on from its last checkpoint"
            ) from error
        return _Recorded(graph, given, figures)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]


@contextmanager
def _capturable(groups: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Let optimisers be recorded, and keep garbage from being collected meanwhile."""
    gc.collect()
    gc.disable()
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False
        gc.enable()
