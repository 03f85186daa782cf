"""Winograd's algorithm F(4, 3) for 5x5 kernels of stride 2: what does not depend on a map.

Four results of a kernel of three taps take six multiplications instead of twelve, because they are
the coefficients of a product of polynomials, which its values at six points determine: 0, 1, -1, 2,
-2 and infinity (Winograd 1980; Lavin and Gray, CVPR 2016, arXiv:1509.09308). In two directions 36
do the work of 144.

A stride of 2 splits rows and columns into even and odd ones, and the kernel of five taps into one
of three and one of two. So a layer has four *phases*: even rows and columns, even rows and odd
columns, odd rows and even columns, odd both. Two taps leave one point without a value: infinity in
a convolution, 0 in a transposed one. What is multiplied comes in four *groups*: 25 points with all
four phases, 5 where only even rows have a value, 5 where only even columns have, and 1 where only
even rows and columns have. Altogether 121 multiplications do the work of 400.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LANES = 16
"""Floats of a vector: a loop over channels takes so many at once."""
GROUP_POINTS = (25, 5, 5, 1)
GROUP_PHASES = (4, 2, 2, 1)
PITCH = (
    16  # floats between the points of a block, which would else begin at one place of every page
)

_TO_POINTS_OF_KERNEL = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)


def to_points(d: Sequence[Any]) -> list[Any]:
    """Return B^T d: six values at the six points."""
    return [*to_finite_points(d), 4 * d[1] - 5 * d[3] + d[5]]


def to_finite_points(d: Sequence[Any]) -> list[Any]:
    """Return the same but for infinity, from five values."""
    even, odd = d[4] - 4 * d[2], d[3] - 4 * d[1]
    even_2, odd_2 = d[4] - d[2], 2 * (d[3] - d[1])
    return [4 * d[0] - 5 * d[2] + d[4], even + odd, even - odd, even_2 + odd_2, even_2 - odd_2]


def from_points(m: Sequence[Any]) -> list[Any]:
    """Return A^T m: four results from six points."""
    first, *others = from_later_points(m[1:])
    return [m[0] + first, *others]


def from_later_points(m: Sequence[Any]) -> list[Any]:
    """Return the same with 0 at the point 0, from the five others."""
    total, difference = m[0] + m[1], m[0] - m[1]
    total_2, difference_2 = m[2] + m[3], m[2] - m[3]
    return [
        total + total_2,
        difference + 2 * difference_2,
        total + 4 * total_2,
        difference + 8 * difference_2 + m[4],
    ]


def conv_matrices(weight: Tensor) -> list[Tensor]:
    """Return a convolution's matrices, float32 [points, phases * C, N] for each group.

    `weight` is that of nn.Conv2d, [N, C, 5, 5].
    """
    g = _TO_POINTS_OF_KERNEL
    phases = _phases(weight, even=(g, (0, 2, 4)), odd=(g[:, :2], (1, 3)))
    return _float32(
        torch.cat([phase[:5, :5].flatten(0, 1) for phase in phases], 1),
        torch.cat([phase[5, :5] for phase in phases[:2]], 1),
        torch.cat([phase[:5, 5] for phase in phases[::2]], 1),
        phases[0][5, 5][None],
    )


def deconv_matrices(weight: Tensor) -> list[Tensor]:
    """Return a transposed convolution's matrices, float32 [points, C, phases * N] for each group.

    `weight` is that of nn.ConvTranspose2d, [C, N, 5, 5].
    """
    g = _TO_POINTS_OF_KERNEL
    taps = weight.transpose(0, 1)
    phases = _phases(taps, even=(g, (4, 2, 0)), odd=(g[:, 1:], (3, 1)))
    return _float32(
        torch.cat([phase[1:, 1:].flatten(0, 1) for phase in phases], 2),
        torch.cat([phase[0, 1:] for phase in phases[:2]], 2),
        torch.cat([phase[1:, 0] for phase in phases[::2]], 2),
        phases[0][0, 0][None],
    )


def _phases(
    weight: Tensor, *, even: tuple[Tensor, Sequence[int]], odd: tuple[Tensor, Sequence[int]]
) -> list[Tensor]:
    """Return the kernels [N, C, 5, 5] of each phase at all points, float64 [6, 6, C, N]."""
    values = weight.detach().double()
    return [
        torch.einsum("pi,qj,ncij->pqcn", down, across, values[:, :, rows][..., columns])
        for down, rows in (even, odd)
        for across, columns in (even, odd)
    ]


def _float32(*groups: Tensor) -> list[Tensor]:
    return [group.float().contiguous() for group in groups]
