"""5x5 layers of stride 2 on a CPU, by matrix products: of Winograd's points, or of windows.

oneDNN multiplies every weight with every value that it meets. Large maps go tile by tile into
Winograd's domain here, where a third of the multiplications remains; small ones, where moving tiles
and weights would take longer than that saves, are written out window by window.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.system.threads import on_cores
from train.codecs.fast import winograd

_FEW_POSITIONS = 128  # of the smaller map: up to here windows are faster than tiles
_MOST_TILES = 128  # of a block: its points and its products take 16 MB each at 256 channels

Values = NDArray[np.float32]
Sides = tuple[int, int]

_kept = threading.local()


@dataclass(frozen=True, slots=True)
class Maps:
    """What a layer reads: x [C, H, W], times and plus `factors` [2, C], as far as `domain` (h, w).

    Where x ends before the domain does, its last row and column are repeated; what lies beyond the
    domain is not read. Both are on a CPU.
    """

    x: Tensor
    factors: Tensor
    domain: Sides

    @property
    def is_channels_last(self) -> bool:
        """Whether a position's channels lie side by side."""
        num_channels, _, width = self.x.shape
        return self.x.stride() == (1, width * num_channels, num_channels)

    def rows(self, first: int, last: int) -> tuple[Values, NDArray[Any], NDArray[Any]]:
        """Return rows flat and channels last, with their shape (H, W, C) and (h, w, first row)."""
        num_channels, height, width = self.x.shape
        domain = np.array([*self.domain, 0])
        if self.is_channels_last:
            return _flat(self.x.permute(1, 2, 0)), np.array([height, width, num_channels]), domain
        last = min(last, height)
        first = min(max(first, 0), last - 1)
        moved = _scratch("rows", (last - first) * width * num_channels)
        into = torch.from_numpy(moved).view(last - first, width, num_channels)
        into.copy_(self.x[:, first:last].permute(1, 2, 0))
        domain[2] = first
        return moved, np.array([last - first, width, num_channels]), domain


class FastLayer(ABC):
    """A convolution or transposed convolution, and what is done to its results in place, if any."""

    values_per_tile: int
    """Rows, and columns, of the domain."""
    results_per_tile: int
    bias: Tensor
    """Factors [2, N] that add the bias and no more."""
    unchanged: Tensor
    """Factors [2, C] that change nothing."""

    def __init__(
        self, layer: nn.Conv2d | nn.ConvTranspose2d, then: Callable[[Tensor], None] | None
    ) -> None:
        self.num_in, self.num_out = layer.in_channels, layer.out_channels
        bias = torch.zeros(self.num_out) if layer.bias is None else layer.bias.detach()
        self.bias = torch.stack([torch.ones(self.num_out), bias])
        self.unchanged = torch.stack([torch.ones(self.num_in), torch.zeros(self.num_in)])
        self._weight = layer.weight.detach()
        self._then = then

    def __call__(self, maps: Maps, factors: Tensor, size: Sides) -> Tensor:
        """Return results float32 [N, *size], channels last, times and plus `factors` [2, N].

        The bias is not added: it belongs into the factors, which are `bias` at least. Of a `size`
        below `sides_of_results` the first rows and columns are computed. The results are the same
        whatever the number of cores.
        """
        result = torch.empty(*size, self.num_out)
        if min(_positions(maps.domain), _positions(size)) <= _FEW_POSITIONS:
            self._by_windows(maps, factors, result)
            self._finish(result)
        else:
            self._by_tiles(maps, factors, result)
        return result.permute(2, 0, 1)

    def sides_of_results(self, domain: Sides) -> Sides:
        """Return height and width of the results of maps of even height and width."""
        height, width = (side * self.results_per_tile // self.values_per_tile for side in domain)
        return height, width

    @abstractmethod
    def sides_needed(self, size: Sides) -> Sides:
        """Return height and width of the values on which results of a `size` hang."""

    def _by_tiles(self, maps: Maps, factors: Tensor, result: Tensor) -> None:
        height, width, _ = result.shape
        num_rows, tiles_x = (-(-side // self.results_per_tile) for side in (height, width))
        num_blocks = -(-num_rows * tiles_x // _MOST_TILES)
        step = -(-num_rows // num_blocks)

        def compute(first: int) -> None:
            last = min(first + step, num_rows)
            self._compute_block(maps, factors, result, (first, last - first, tiles_x))
            side = self.results_per_tile
            self._finish(result[first * side : last * side])

        on_cores(compute, range(0, num_rows, step))

    def _compute_block(
        self, maps: Maps, factors: Tensor, result: Tensor, block: tuple[int, int, int]
    ) -> None:
        """Fill rows of the result; block: (first row of tiles, how many rows, tiles a row)."""
        first, num_rows, tiles_x = block
        num_tiles = num_rows * tiles_x
        inputs, outputs = self._widths(winograd.GROUP_PHASES)
        pitches = [num_tiles * width + winograd.PITCH for width in inputs]
        points = _scratch("points", int(np.dot(winograd.GROUP_POINTS, pitches)))
        products = _scratch("products", int(np.dot(winograd.GROUP_POINTS, outputs)) * num_tiles)
        side = self.values_per_tile
        rows = maps.rows(first * side - 3, (first + num_rows) * side + 3)
        self._to_points(*rows, _flat(maps.factors), *block, points)
        at, done = 0, 0
        for group, number in enumerate(winograd.GROUP_POINTS):
            shape = (number, num_tiles, inputs[group])
            given = torch.from_numpy(points[at:]).as_strided(
                shape, (pitches[group], inputs[group], 1)
            )
            size = number * num_tiles * outputs[group]
            into = torch.from_numpy(products[done : done + size]).view(number, num_tiles, -1)
            torch.bmm(given, self._point_matrices[group], out=into)
            at, done = at + number * pitches[group], done + size
        shape_hwc = np.array(result.shape)
        self._from_points(products, _flat(factors), _flat(result), shape_hwc, *block)

    def _finish(self, rows: Tensor) -> None:
        if self._then is not None:
            self._then(rows.view(-1, self.num_out))

    @abstractmethod
    def _widths(self, phases: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """Return, group by group, how many values and products a tile has at a point."""

    @property
    @abstractmethod
    def _point_matrices(self) -> list[Tensor]: ...

    @abstractmethod
    def _to_points(self, *arguments: Any) -> None: ...

    @abstractmethod
    def _from_points(self, *arguments: Any) -> None: ...

    @abstractmethod
    def _by_windows(self, maps: Maps, factors: Tensor, result: Tensor) -> None:
        """Fill the result from windows of all of its positions."""


class FastConv(FastLayer):
    """nn.Conv2d of 5x5, stride 2, padding 2: [C, h, w] -> [N, h / 2, w / 2]."""

    values_per_tile, results_per_tile = 8, 4

    def sides_needed(self, size: Sides) -> Sides:
        return 2 * size[0], 2 * size[1]

    def _widths(self, phases: tuple[int, ...]) -> tuple[list[int], list[int]]:
        return [number * self.num_in for number in phases], [self.num_out] * len(phases)

    @cached_property
    def _point_matrices(self) -> list[Tensor]:
        return winograd.conv_matrices(self._weight)

    @cached_property
    def _window_matrix(self) -> Tensor:
        return self._weight.permute(2, 3, 1, 0).reshape(-1, self.num_out).contiguous()

    def _to_points(self, *arguments: Any) -> None:
        from train.codecs.fast import winograd_loops

        winograd_loops.conv_points(*arguments)

    def _from_points(self, *arguments: Any) -> None:
        from train.codecs.fast import winograd_loops

        winograd_loops.conv_results(*arguments)

    def _by_windows(self, maps: Maps, factors: Tensor, result: Tensor) -> None:
        from train.codecs.fast import window_loops

        size = np.array(result.shape[:2])
        windows = _scratch("points", int(size.prod()) * 25 * self.num_in)
        rows = maps.rows(0, maps.domain[0])
        window_loops.conv_window(*rows, _flat(maps.factors), size, windows)
        given = torch.from_numpy(windows).view(-1, 25 * self.num_in)
        results = torch.mm(given, self._window_matrix, out=result.view(-1, self.num_out))
        torch.addcmul(factors[1], results, factors[0], out=results)


class FastDeconv(FastLayer):
    """nn.ConvTranspose2d of 5x5, stride 2, paddings 2 and 1: [C, h, w] -> [N, 2 h, 2 w]."""

    values_per_tile, results_per_tile = 4, 8

    def sides_needed(self, size: Sides) -> Sides:
        return -(-size[0] // 2) + 1, -(-size[1] // 2) + 1

    def _widths(self, phases: tuple[int, ...]) -> tuple[list[int], list[int]]:
        return [self.num_in] * len(phases), [number * self.num_out for number in phases]

    @cached_property
    def _point_matrices(self) -> list[Tensor]:
        return winograd.deconv_matrices(self._weight)

    @cached_property
    def _window_matrix(self) -> Tensor:
        return self._weight.permute(0, 2, 3, 1).reshape(self.num_in, -1).contiguous()

    def _to_points(self, *arguments: Any) -> None:
        from train.codecs.fast import winograd_loops

        winograd_loops.deconv_points(*arguments)

    def _from_points(self, *arguments: Any) -> None:
        from train.codecs.fast import winograd_loops

        winograd_loops.deconv_results(*arguments)

    def _by_windows(self, maps: Maps, factors: Tensor, result: Tensor) -> None:
        from train.codecs.fast import window_loops

        height, width = maps.domain
        x = maps.x[:, :height, :width].permute(1, 2, 0).reshape(-1, self.num_in)
        values = torch.addcmul(maps.factors[1], x, maps.factors[0])
        products = _scratch("products", len(values) * 25 * self.num_out)
        into = torch.from_numpy(products).view(len(values), -1)
        torch.mm(values, self._window_matrix, out=into)
        window_loops.deconv_sum(
            products, np.array(maps.domain), _flat(factors), _flat(result), np.array(result.shape)
        )


def _positions(sides: Sides) -> int:
    return sides[0] * sides[1]


def _flat(values: Tensor) -> Values:
    flat: Values = values.detach().numpy().reshape(-1)
    return flat


def _scratch(name: str, size: int) -> Values:
    """Return `size` floats that this thread keeps under that name: new memory costs page faults."""
    kept: Values | None = getattr(_kept, name, None)
    if kept is None or len(kept) < size:
        kept = np.empty(size, np.float32)
        setattr(_kept, name, kept)
    return kept[:size]
