"""Mean and covariance over a level's channels, exact under merging, and their principal axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def product(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Return `one @ other` [m, n] of matrices of one dtype, float32 or float64.

    NumPy's BLAS has threads of its own, whatever torch is told: beside an image on every core they
    wait busily. And it does not know every processor, and then takes its oldest instructions.
    """
    result: NDArray[Any] = torch.mm(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelCovariance:
    """Of `count` positions with C channels each; all arrays are float64."""

    count: int
    mean: NDArray[Any]
    """[C]."""
    scatter: NDArray[Any]
    """Sum of outer products of the differences from the mean, [C, C]."""

    @property
    def mean_variance(self) -> float:
        """Mean of the channels' population variances."""
        return float(np.trace(self.scatter)) / (self.count * len(self.mean))

    def merged_with(self, other: ChannelCovariance) -> ChannelCovariance:
        """Combine two disjoint parts (Chan, Golub and LeVeque 1979, equation 2.1, for matrices)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return ChannelCovariance(
            count=count,
            mean=self.mean + delta * (other.count / count),
            scatter=self.scatter
            + other.scatter
            + np.outer(delta, delta) * (self.count * other.count / count),
        )

    def principal_axes(self) -> NDArray[Any]:
        """Return the eigenvectors as columns, float64 [C, C], largest variance first."""
        _, axes = np.linalg.eigh(self.scatter)
        return np.ascontiguousarray(axes[:, ::-1])


def covariance_of(values: NDArray[Any]) -> ChannelCovariance:
    """Return the covariance of one map, float [H, W, C]."""
    positions = values.reshape(-1, values.shape[-1]).astype(np.float64)
    mean = positions.mean(axis=0)
    positions -= mean
    return ChannelCovariance(
        count=len(positions), mean=mean, scatter=product(positions.T, positions)
    )
