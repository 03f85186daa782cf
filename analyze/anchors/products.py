"""Matrix products of NumPy arrays by torch."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray


def product(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Return `one @ other` [m, n] of matrices of one dtype, float32 or float64.

    NumPy's BLAS has threads of its own, whatever torch is told: beside an image on every core they
    wait busily. And it does not know every processor, and then takes its oldest instructions.
    """
    result: NDArray[Any] = torch.mm(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    return result
