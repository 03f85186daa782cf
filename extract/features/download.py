"""Copies of a GPU's tensors on the CPU, made while it goes on computing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from extract.features.busy_times import DeviceTime


class Download:
    """Copies of tensors on the CPU, laid out alike. Those of a GPU are there after `wait`.

    They lie in pinned memory, which torch keeps and uses again, and are copied by a stream of their
    own, so that neither the GPU nor the calling thread waits for them. Tensors that are on the CPU
    already are not copied.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._time: DeviceTime | None = None
        self._done: torch.cuda.Event | None = None
        if not tensors or not tensors[0].is_cuda:
            return
        beside = _copying_stream(tensors[0].device)
        beside.wait_stream(torch.cuda.current_stream(tensors[0].device))
        with torch.cuda.stream(beside):
            self._time = DeviceTime(tensors[0].device)
            self._tensors = [
                _pinned_like(tensor).copy_(tensor, non_blocking=True) for tensor in tensors
            ]
            self._time.stop()
            self._done = beside.record_event()
        for tensor in tensors:
            tensor.record_stream(beside)  # or its memory would be used again too soon

    def wait(self) -> list[Tensor]:
        """Return the copies, in their order, once they are whole."""
        if self._done is not None:
            self._done.synchronize()
        return self._tensors

    @property
    def seconds(self) -> float:
        """How long the copying took, once it has been waited for; 0 where nothing was copied."""
        return 0.0 if self._time is None else self._time.seconds


def _pinned_like(tensor: Tensor) -> Tensor:
    """Return pinned memory of a tensor's shape, strides and type.

    It is a power of two in size: torch keeps such memory, and batches of any size share it.
    """
    num_bytes = tensor.numel() * tensor.element_size()
    size = 1 << (num_bytes - 1).bit_length()
    memory = torch.empty(size, dtype=torch.uint8, pin_memory=True)[:num_bytes].view(tensor.dtype)
    return memory.as_strided(tensor.shape, torch.empty_like(tensor, device="meta").stride())


@cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
