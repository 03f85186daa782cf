"""Decoded maps on the disk: what was written comes back, and a full disk is told, not died of."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from analyze.maps.map_source import DecodedMaps
from configs.errors import MachineError

SHAPES = [(3, 5, 4), (2, 2, 4), (7, 1, 4)]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_maps_come_back_whatever_the_order_in_which_they_were_written(
    tmp_path: Path, dtype: str
) -> None:
    maps = DecodedMaps(tmp_path / "maps", SHAPES, np.dtype(dtype))
    values = [np.random.default_rng(0).normal(size=shape) for shape in SHAPES]
    views = [maps.read(index) for index in range(3)]
    for index in (2, 0, 1):
        maps.write(index, values[index].transpose(1, 0, 2).copy().transpose(1, 0, 2))
    for view, wanted in zip(views, values, strict=True):
        np.testing.assert_array_equal(view, wanted.astype(dtype))
        with pytest.raises(ValueError, match="read-only"):
            view += 1
    maps.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_full_disk_is_one_line_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The space is taken at the beginning; where that cannot be, the writing tells."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(MachineError) as caught:
        DecodedMaps(tmp_path / "maps", SHAPES, np.dtype("f4")).write(0, np.zeros(SHAPES[0]))
    assert str(caught.value).startswith(
        f"{tmp_path}/maps: decoded maps cannot be written (No space left on device): make room"
    )
