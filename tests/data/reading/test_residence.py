"""Which levels lie on the device: as many as fit, and the log says why."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from configs.errors import ConfigError
from data.reading import resident
from data.reading.level_reader import LevelReader
from data.reading.resident import resident_bytes, resident_maps, which_fit
from tests.support.extraction import TinyCache


@pytest.fixture
def readers(zarr_cache: TinyCache) -> Iterator[list[LevelReader]]:
    opened = [LevelReader(zarr_cache.folder, level) for level in range(2)]
    yield opened
    for reader in opened:
        reader.close()


@pytest.mark.parametrize(
    ("room", "fit"),
    [
        (None, [True, True, True]), (21, [True, True, True]), (20, [False, True, True]),
        (4, [False, False, True]), (0, [False, False, False]),
    ],
)  # fmt: skip
def test_the_coarsest_levels_are_the_first_to_fit(room: int | None, fit: list[bool]) -> None:
    assert which_fit([16, 4, 1], room) == fit


def test_on_a_cpu_levels_lie_in_memory_only_where_the_user_says_so(
    readers: list[LevelReader],
) -> None:
    assert resident_maps(readers, "auto", "cpu") == [None, None]
    assert resident_maps(readers, "never", "cpu") == [None, None]
    for maps, reader in zip(resident_maps(readers, "always", "cpu"), readers, strict=True):
        assert maps is not None
        assert maps.values.nbytes == resident_bytes(reader)


def as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let the CPU's memory be as limited as a GPU's."""
    monkeypatch.setattr(resident, "free_bytes", lambda device: free)


def test_what_does_not_fit_though_it_always_should_is_one_clear_error(
    readers: list[LevelReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_on_a_gpu(monkeypatch, free=2 * sum(map(resident_bytes, readers)) - 2)
    with pytest.raises(ConfigError, match=r"training.resident: the maps take .* more than 50%"):
        resident_maps(readers, "always", "cpu")


def test_the_log_says_what_lies_where_and_why(
    readers: list[LevelReader], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    as_if_on_a_gpu(monkeypatch, free=10**9)
    with caplog.at_level(logging.INFO, logger=resident.__name__):
        resident_maps(readers, "always", "cpu")
    assert "level 0 lies on cpu: its maps take" in caplog.text
    assert "50% of 1.00 GB free there are for maps" in caplog.text


@pytest.mark.gpu
def test_on_a_gpu_a_level_that_fits_lies_there(readers: list[LevelReader]) -> None:
    for maps in resident_maps(readers, "auto", "cuda"):
        assert maps is not None
        assert maps.device.type == "cuda"


@pytest.mark.gpu
def test_memory_that_torch_keeps_of_maps_that_are_gone_counts_as_free() -> None:
    device = torch.device("cuda")
    before = resident.free_bytes(device)
    gone = torch.empty(2**28, dtype=torch.uint8, device=device)
    del gone
    assert before is not None
    assert abs((resident.free_bytes(device) or 0) - before) < 2**26
