"""Decoded maps take bounded room: pieces of a split hold what the whole would."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from analyze.facts.candidates import Candidate
from analyze.measure import decoded_levels
from analyze.measure.decoded_levels import DecodedLevels, pieces, scratch_bytes
from tests.support.tiny_codecs import NUM_CHANNELS, ready_codec
from train.runs.loaded_models import LoadedModels

NUM_IMAGES = 7


class Maps:
    """A level of float16 maps of two sizes."""

    def __init__(self, side: int) -> None:
        self.shapes = np.array([(side, side + n % 2, NUM_CHANNELS) for n in range(NUM_IMAGES)])
        self.dtype = self.value_dtype = np.dtype(np.float16)

    def shape(self, index: int) -> tuple[int, ...]:
        return tuple(self.shapes[index].tolist())

    def num_values(self, images: range) -> int:
        return int(self.shapes[images.start : images.stop].prod(axis=1).sum())

    def sample(self, index: int) -> Any:
        generator = np.random.default_rng(index)
        return generator.normal(-20, 50, self.shape(index)).astype(np.float16)


READERS: dict[int, Any] = {0: Maps(16), 1: Maps(8)}
BYTES = {level: 2 * int(maps.shapes.prod(axis=1).sum()) for level, maps in READERS.items()}
RUNS = [
    Candidate(folder=Path(f"run_{number}"), level=level, lmbda=0.1, best_validation_loss=1.0)
    for number, level in enumerate((0, 0, 1))
]
TOGETHER = 2 * BYTES[0] + BYTES[1]


@pytest.fixture(autouse=True)
def _windows_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_levels, "WINDOW", 2)


def decoded_within(folder: Path, most_bytes: int, monkeypatch: Any) -> DecodedLevels:
    monkeypatch.setattr(decoded_levels, "scratch_bytes", lambda *_: most_bytes)
    models = SimpleNamespace(device="cpu", codec=lambda *_, **__: ready_codec())
    return DecodedLevels(folder, READERS, NUM_IMAGES, cast(LoadedModels, models))


def test_pieces_of_a_split_are_what_the_whole_is_in_a_third_of_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "few").mkdir()
    whole = decoded_within(tmp_path / "whole", TOGETHER, monkeypatch)
    few = decoded_within(tmp_path / "few", TOGETHER // 3, monkeypatch)
    assert list(whole.pieces(RUNS)) == [range(NUM_IMAGES)]
    expected = whole.of(RUNS)
    seen, most = [], 0
    for piece in few.pieces(RUNS):
        maps = few.of(RUNS, piece)
        most = max(most, sum(file.stat().st_size for file in (tmp_path / "few").iterdir()))
        for index in piece:
            seen.append(index)
            for run in RUNS:
                held = expected[run.folder].read(index)
                assert np.array_equal(maps[run.folder].read(index), held)
    assert seen == list(range(NUM_IMAGES))
    assert most <= TOGETHER // 3


def test_maps_of_all_images_are_used_for_a_piece_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = decoded_within(tmp_path, TOGETHER, monkeypatch)
    whole = decoded.of(RUNS)
    assert decoded.first_of(RUNS[0]) is whole[RUNS[0].folder]
    assert decoded.of(RUNS[1:], range(2))[RUNS[1].folder] is whole[RUNS[1].folder]


def test_bitstreams_of_a_level_that_does_not_fit_leave_no_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = decoded_within(tmp_path, BYTES[0] - 1, monkeypatch)
    assert decoded.new(RUNS[0]) is None
    assert decoded.new(RUNS[2]) is not None
    # The first images are decoded by themselves, where they are asked for.
    first = decoded.first_of(RUNS[0])
    assert first.read(1).shape == READERS[0].shape(1)


def test_a_piece_is_at_least_a_window() -> None:
    assert list(pieces(READERS, [0, 0, 1], range(5), 1)) == [range(2), range(2, 4), range(4, 5)]


def test_room_beside_a_gpu_does_not_grow_with_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=10**15)
    monkeypatch.setattr("analyze.measure.decoded_levels.shutil.disk_usage", lambda _: usage)
    assert scratch_bytes(tmp_path, "cpu") == 10**15 // 2
    assert scratch_bytes(tmp_path, "cuda") == 16 * 2**30
