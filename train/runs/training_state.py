"""The state of a training in a checkpoint, compared with a session before it is taken up.

Optimisers believe what they are given: one that runs in C writes beyond a tensor that is smaller
than its weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_MOST = 2**62  # of a count


def require_like(there: Any, own: Any, place: str = "training_state") -> None:
    """Raise ValueError unless each value is of the kind of the session's `own` at its place.

    What only one of them has is left to who takes it up: versions differ in it. `own` values that
    are None, and lists that are empty, say nothing.
    """
    if isinstance(own, dict):
        _require(isinstance(there, dict), place)
        for key in own.keys() & there.keys():
            require_like(there[key], own[key], f"{place}.{key}")
    elif isinstance(own, list | tuple):
        _require(isinstance(there, list | tuple), place)
        _require(not own or len(own) == len(there), place)
        for number, (each, its) in enumerate(zip(there, own, strict=False)):
            require_like(each, its, f"{place}.{number}")
    elif isinstance(own, Tensor):
        _require(_is_like(there, own.shape) and there.dtype == own.dtype, place)
    elif isinstance(own, bool):
        _require(there is None or isinstance(there, bool), place)
    elif isinstance(own, int):
        _require(type(there) is int and 0 <= there < _MOST, place)
    elif isinstance(own, float):
        _require(type(there) is float or (type(there) is int and abs(there) < _MOST), place)
    elif own is not None:
        _require(type(there) is type(own), place)


def require_states_like(there: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError unless an optimiser's state has tensors as large as its weights.

    Or single numbers, such as how many steps it has taken.
    """
    shapes = [each.shape for group in optimizer.param_groups for each in group["params"]]
    _require(isinstance(there, dict) and isinstance(there.get("state"), dict), "optimizer")
    for number, values in there["state"].items():
        place = f"optimizer.state.{number}"
        _require(type(number) is int and 0 <= number < len(shapes), place)
        _require(isinstance(values, dict), place)
        for name, value in values.items():
            fits = any(_is_like(value, shape) for shape in (shapes[number], torch.Size()))
            _require(fits and value.is_floating_point(), f"{place}.{name}")


def _is_like(value: Any, shape: torch.Size) -> bool:
    is_whole = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    return is_whole and value.shape == shape


def _require(holds: bool, place: str) -> None:
    if not holds:
        raise ValueError(f"{place} is of another kind")
