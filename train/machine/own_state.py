"""What a run has of its own of a process that it shares with others: random numbers, CUDA stream.

Runs that take turns in one process then compute what each of them computes alone, to the bit.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class OwnState:
    """A run's random numbers, number of threads and, on a GPU, the stream that it computes on."""

    def __init__(self, device: str) -> None:
        self._num_threads = torch.get_num_threads()
        self._random = torch.get_rng_state()
        is_cuda = torch.device(device).type == "cuda"
        self._on_gpu = _OwnOnGpu(torch.device(device)) if is_cuda else None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let all that is computed inside be this run's; what others had is as before after it.

        On a GPU it begins when all is done that its stream has to wait for (`wait_for`).
        """
        others_random, others_threads = torch.get_rng_state(), torch.get_num_threads()
        with ExitStack() as stack:
            if self._on_gpu is not None:
                stack.enter_context(self._on_gpu.in_use())
            torch.set_rng_state(self._random)
            _set_num_threads(self._num_threads)
            try:
                yield
            finally:
                self._random, self._num_threads = torch.get_rng_state(), torch.get_num_threads()
                torch.set_rng_state(others_random)
                _set_num_threads(others_threads)

    def wait_for(self, ready: torch.cuda.Event | None) -> None:
        """Compute what follows after that event, which is on another stream; nothing on a CPU."""
        if self._on_gpu is not None and ready is not None:
            self._on_gpu.stream.wait_event(ready)

    def is_waited_for(self) -> None:
        """Let the current stream wait for all that this run has computed; nothing on a CPU."""
        if self._on_gpu is not None:
            torch.cuda.current_stream(self._on_gpu.stream.device).wait_stream(self._on_gpu.stream)


def now_on(device: str) -> torch.cuda.Event | None:
    """Return an event after all that the current stream has been asked for; None on a CPU."""
    if torch.device(device).type != "cuda":
        return None
    event: torch.cuda.Event = torch.cuda.current_stream(device).record_event()
    return event


def release_memory(device: str) -> None:
    """Give back what nobody holds any more, once all that is under way is done; nothing on CPUs."""
    if torch.device(device).type == "cuda":
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


class _OwnOnGpu:
    def __init__(self, device: torch.device) -> None:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device() if device.index is None else device.index
        self.stream = torch.cuda.Stream(index)  # type: ignore[no-untyped-call]
        self._generator = torch.cuda.default_generators[index]
        # A state, not a copy of numbers: a recorded step keeps the one that it was recorded with,
        # and reads it on the GPU while another run's step may be under way.
        self._random = self._generator.clone_state()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        others = self._generator.graphsafe_get_state()
        self._generator.graphsafe_set_state(self._random)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            self._generator.graphsafe_set_state(others)


def _set_num_threads(number: int) -> None:
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)
