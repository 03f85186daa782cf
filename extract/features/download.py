"""Tensors on their way from a GPU to the CPU, while the GPU computes the next ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


class Download:
    """Copies of tensors on the CPU, laid out alike. Those of a GPU are there after `wait`.

    They lie in pinned memory, which torch keeps and uses again, and are copied by a stream of their
    own, so that neither the GPU nor the calling thread waits for them. Tensors that are on the CPU
    already are not copied.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._done: torch.cuda.Event | None = None
        if not tensors or not tensors[0].is_cuda:
            return
        beside = _copying_stream(tensors[0].device)
        beside.wait_stream(torch.cuda.current_stream(tensors[0].device))
        with torch.cuda.stream(beside):
            self._tensors = [
                torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(
                    tensor, non_blocking=True
                )
                for tensor in tensors
            ]
            self._done = beside.record_event()
        for tensor in tensors:
            tensor.record_stream(beside)  # or its memory would be used again too soon

    def wait(self) -> list[Tensor]:
        """Return the copies, in their order, once they are whole."""
        if self._done is not None:
            self._done.synchronize()
        return self._tensors


@cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
