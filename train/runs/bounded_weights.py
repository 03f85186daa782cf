"""Weights of no more values than a file can hold: its settings may claim any widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.eye, torch.rand, torch.randn, torch.full}
_LEAST_OF_A_CHANNEL = 25  # weights of a 5 x 5 kernel; some tensors of a channel are no factory's
_TOO_MANY = "its settings are of more weights than it holds"
_BESIDE = 2**22
"""Values of what a codec makes beside its weights: masks, tables, bounds."""


class NoMoreThan(TorchFunctionMode):
    """Within the block torch makes tensors for a file of so many bytes, and no larger ones.

    A file that says so is refused, by ValueError, before there is any room made: it holds a byte or
    more of each value, as honest ones do.
    """

    def __init__(self, num_bytes: int, widest: int) -> None:
        """Take the file's size, and the most channels between its layers."""
        super().__init__()
        if widest * _LEAST_OF_A_CHANNEL > num_bytes:
            raise ValueError(_TOO_MANY)
        self._values_left = num_bytes + _BESIDE

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count what a factory would make before it makes it."""
        given = dict(kwargs or {})
        if func in _FACTORIES:
            self._values_left -= func(*args, **{**given, "device": "meta"}).numel()
            if self._values_left < 0:
                raise ValueError(_TOO_MANY)
        return func(*args, **given)
