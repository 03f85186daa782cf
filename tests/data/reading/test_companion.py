"""What is read beside a level: the same samples, at the same places, in each way to stream them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import CacheError, ConfigError
from data.coding.byte_code import ByteCode
from data.reading.companion import Companion
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch, LevelStream
from data.reading.order import crop_corners, crop_fractions, reader_draws
from data.reading.resident import ResidentMaps
from data.reading.transfer import on_device
from data.reading.whole_maps import whole_map_batches
from tests.support.devices import DEVICES
from tests.support.small_caches import random_maps, write_maps

SHAPES = [(5, 7), (5, 7), (17, 9), (12, 12), (1, 3), (33, 20), (33, 20), (17, 9), (20, 33), (5, 7)]
STRIDES = (2, 3)
COMMON_STRIDE = 6


def coarser(shapes: Sequence[tuple[int, int]], stride: int) -> list[tuple[int, int]]:
    return [(-(-height // stride), -(-width // stride)) for height, width in shapes]


@dataclass(frozen=True)
class Opened:
    """A level, decoded maps by two codecs at half its size, and their latents at a third of it."""

    level: LevelReader
    beside: tuple[Companion, Companion]

    @property
    def one_each(self) -> tuple[Companion, ...]:
        return tuple(replace(each, readers=each.readers[:1]) for each in self.beside)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("beside")
    with ExitStack() as stack:

        def reader(name: str, maps: list[NDArray[Any]], **options: Any) -> LevelReader:
            cache = write_maps(folder / name, maps, **options)
            return stack.enter_context(LevelReader(cache, options.get("level", 0)))

        half, third = (coarser(SHAPES, stride) for stride in STRIDES)
        decoded = [reader(f"map{n}", random_maps(half, 2, 10 + n), level=1) for n in range(2)]
        latents = [
            reader(f"y{n}", random_maps(third, 5, 20 + n), dtype="float32") for n in range(2)
        ]
        yield Opened(
            reader("level", random_maps(SHAPES, 3, 0)),
            (Companion(tuple(decoded), 2), Companion(tuple(latents), 3)),
        )


def stream_of(opened: Opened, beside: Sequence[Companion], **options: Any) -> LevelStream:
    settings = {"batch_size": 3, "crop": 8, "seed": 5, "copy": True} | options
    return LevelStream(opened.level, beside=beside, **settings)


def slice_of(
    values: NDArray[Any],
    corner: NDArray[Any],
    size: NDArray[Any],
    tile: tuple[int, int],
    stride: int,
) -> NDArray[Any]:
    """The [h, w, C] of a whole map under a tile of the streamed level, padded by replication."""
    (top, left), (bottom, right) = corner // stride, -(-(corner + size) // stride)
    cut = values[top:bottom, left:right]
    missing = [(0, -(-side // stride) - own) for side, own in zip(tile, cut.shape, strict=False)]
    return np.pad(cut, [*missing, (0, 0)], mode="edge")


def assert_of_the_same_places(
    batch: Batch, opened: Opened, beside: Sequence[Companion], crop: int | None, seed: int,
    epoch: int,
) -> None:  # fmt: skip
    fractions = crop_fractions(num_samples=len(SHAPES), seed=seed, epoch=epoch)
    tile = (batch.features.shape[2], batch.features.shape[3])
    assert len(batch.beside) == len(beside)
    for row, index in enumerate(batch.indices.tolist()):
        whole = np.array(SHAPES[index])
        largest = np.minimum(whole, crop or 99)
        corners = -(-(whole - largest) // COMMON_STRIDE) + 1
        corner = (fractions[index] * corners).astype(int) * COMMON_STRIDE
        size = np.minimum(largest, whole - corner)
        assert batch.sizes[row].tolist() == size.tolist()
        wanted = slice_of(opened.level.sample(index), corner, size, tile, 1)
        np.testing.assert_array_equal(batch.features[row].permute(1, 2, 0), wanted)
        for companion, features in zip(beside, batch.beside, strict=True):
            taken = reader_draws(
                num_samples=len(SHAPES), num_readers=len(companion.readers), seed=seed, epoch=epoch
            )
            maps = companion.readers[taken[index]].sample(index)
            wanted = slice_of(maps, corner, size, tile, companion.stride)
            np.testing.assert_array_equal(features[row].permute(1, 2, 0), wanted)


@settings(max_examples=40)
@given(
    crop=st.sampled_from([None, 6, 7, 8, 13, 16, 40]),
    batch_size=st.integers(1, 11),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 3),
    take_turns=st.booleans(),
    shuffle=st.sampled_from(["full", "shards"]),
    ranks=st.sampled_from([(0, 1), (0, 3), (2, 3)]),
    first=st.integers(0, 2),
    read_ahead=st.booleans(),
    block_bytes=st.sampled_from([1, 2000, 2**22]),
)
def test_companions_are_the_slices_of_their_whole_maps_at_the_places_of_the_crops(
    opened: Opened, crop: int | None, batch_size: int, seed: int, epoch: int, take_turns: bool,
    shuffle: str, ranks: tuple[int, int], first: int, read_ahead: bool, block_bytes: int,
) -> None:  # fmt: skip
    beside = opened.beside if take_turns else opened.one_each
    rank, num_ranks = ranks
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("data.reading.epoch_tiles.BLOCK_BYTES", block_bytes)
        stream = stream_of(
            opened, beside, crop=crop, batch_size=batch_size, seed=seed, shuffle=shuffle,
            rank=rank, num_ranks=num_ranks, read_ahead=read_ahead,
        )  # fmt: skip
        stream.load_state_dict({"epoch": epoch, "next_batch": min(first, len(stream) - 1)})
        for batch in stream:
            assert_of_the_same_places(batch, opened, beside, crop, seed, epoch)
            for companion, features in zip(beside, batch.beside, strict=True):
                assert features.dtype == getattr(torch, companion.readers[0].dtype.name)
                assert features.is_contiguous(memory_format=torch.channels_last)


@given(side=st.integers(1, 60), crop=st.integers(1, 20), stride=st.integers(1, 20))
def test_every_position_of_a_map_is_seen_by_crops_at_multiples_of_a_stride(
    side: int, crop: int, stride: int
) -> None:
    free = max(0, side - crop)
    fractions = np.linspace(0, 1, 200, endpoint=False)[:, None].repeat(2, axis=1)
    corners = crop_corners(fractions, np.array([[free, 0]]), stride=stride)
    assert (corners % stride == 0).all()
    assert (corners[:, 1] == 0).all()
    assert (corners[:, 0] < side).all() or crop < stride
    if stride <= crop:
        seen = {at for corner in set(corners[:, 0]) for at in range(corner, corner + crop)}
        assert seen >= set(range(side))
    if stride == 1:
        assert corners[:, 0].max() == free


def test_parts_of_the_ranks_are_the_rows_of_the_whole_batch(opened: Opened) -> None:
    whole = list(stream_of(opened, opened.beside))
    parts = [list(stream_of(opened, opened.beside, rank=rank, num_ranks=2)) for rank in range(2)]
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert {share.batch_positions for share in shares} == {int(batch.sizes.prod(1).sum())}
        for of_ranks, features in zip(
            zip(*(share.beside for share in shares), strict=True), batch.beside, strict=True
        ):
            assert torch.equal(torch.cat(of_ranks), features)


def test_caches_that_take_turns_are_drawn_anew_in_each_epoch_and_alike_for_all_companions(
    opened: Opened,
) -> None:
    stream = stream_of(opened, opened.beside, crop=None, batch_size=1)
    taken = []
    for _ in range(3):
        drawn = {}
        for batch in stream:
            index = int(batch.indices)
            _, _, height, width = batch.beside[0].shape
            found = [
                [torch.from_numpy(reader.sample(index).copy()) for reader in companion.readers]
                for companion in opened.beside
            ]
            numbers = {
                number
                for maps, features in zip(found, batch.beside, strict=True)
                for number, values in enumerate(maps)
                if torch.equal(values, features[0].permute(1, 2, 0))
            }
            assert (height, width) == coarser([SHAPES[index]], 2)[0]
            (drawn[index],) = numbers
        taken.append([drawn[index] for index in range(len(SHAPES))])
        assert set(taken[-1]) == {0, 1}
    assert taken[0] != taken[1] != taken[2]


@pytest.mark.parametrize("read_ahead", [False, True])
def test_memory_of_companions_is_used_again_unless_copies_are_asked_for(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, read_ahead: bool
) -> None:
    monkeypatch.setattr("data.reading.epoch_tiles.BLOCK_BYTES", 1)
    monkeypatch.setattr("data.reading.read_ahead._MOST_BYTES", 0)
    options: dict[str, Any] = {"batch_size": 1, "keep": 2, "read_ahead": read_ahead}
    copies = list(stream_of(opened, opened.beside, **options))
    reused = stream_of(opened, opened.beside, copy=False, **options)
    held = list[Batch]()
    for batch in reused:
        held.append(batch)
        torch.rand(50, 50).inverse()  # the thread has time to fill what it may
        for ours, theirs in list(zip(held, copies, strict=False))[-2:]:
            for found, wanted in zip(ours.beside, theirs.beside, strict=True):
                assert torch.equal(found, wanted)
    again = list(reused)
    for number in range(2):
        assert len({batch.beside[number].data_ptr() for batch in again}) <= 2 + 2 * read_ahead
        assert len({batch.beside[number].data_ptr() for batch in copies}) == len(copies)


@pytest.mark.parametrize("device", DEVICES)
def test_companions_stay_in_files_where_the_level_is_resident(opened: Opened, device: str) -> None:
    resident = ResidentMaps(opened.level, device)
    wanted = stream_of(opened, opened.beside)
    found = stream_of(opened, opened.beside, resident=resident, pin_memory=device == "cuda")
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours.features.cpu(), theirs.features)
        for one, other in zip(ours.beside, theirs.beside, strict=True):
            assert one.device.type == "cpu"
            assert torch.equal(one, other)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("as_stored", [False, True])
def test_companions_come_to_the_device_with_their_batch(
    opened: Opened, device: str, as_stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.reading.epoch_tiles.BLOCK_BYTES", 1)
    wanted = list(stream_of(opened, opened.beside))
    stream = stream_of(opened, opened.beside, copy=False, keep=2, pin_memory=device == "cuda")
    for (batch, x), theirs in zip(
        on_device(stream, device, as_stored=as_stored), wanted, strict=True
    ):
        assert torch.equal(x.cpu().float(), theirs.features.float())
        assert batch.indices.tolist() == theirs.indices.tolist()
        for found, stored in zip(batch.beside, theirs.beside, strict=True):
            as_is = as_stored and device == "cuda"
            assert found.dtype == (stored.dtype if as_is else torch.float32)
            assert found.device.type == device
            assert found.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(found.cpu().float(), stored.float())


def test_whole_maps_have_whole_companions_by_turns(opened: Opened) -> None:
    seen = []
    for batch in whole_map_batches(opened.level, 2, beside=opened.beside):
        seen += batch.indices.tolist()
        for companion, features in zip(opened.beside, batch.beside, strict=True):
            for row, index in enumerate(batch.indices.tolist()):
                wanted = companion.readers[index % 2].sample(index)
                np.testing.assert_array_equal(features[row].permute(1, 2, 0), wanted)
    assert sorted(seen) == list(range(len(SHAPES)))


class _Broken(LevelReader):
    def require_whole(self, indices: Any) -> None:
        if 4 in indices:
            raise CacheError("sample 4 is damaged")


@pytest.mark.parametrize("read_ahead", [False, True])
def test_damage_of_a_companion_is_found(opened: Opened, read_ahead: bool) -> None:
    decoded = opened.beside[0]
    with _Broken(decoded.readers[1].cache, 1) as broken:
        beside = [replace(decoded, readers=(broken,))]
        with pytest.raises(CacheError, match="sample 4 is damaged"):
            list(stream_of(opened, beside, read_ahead=read_ahead))


@pytest.mark.parametrize(
    ("shapes", "first_id", "stride", "told"),
    [
        (SHAPES[:9], 1, 2, "is of 9 images, .*level 0 of 10: make it anew of that cache"),
        (SHAPES, 2, 2, "its image number 0 has the id 2, in .*level 0 it is 1"),
        (SHAPES, 1, 3, r"of image number 0 is 3 x 4, at a stride of 3 .* has to be 2 x 3"),
    ],
)
def test_caches_of_other_samples_or_places_are_refused(
    opened: Opened, tmp_path: Path, shapes: list[tuple[int, int]], first_id: int, stride: int,
    told: str,
) -> None:  # fmt: skip
    folder = write_maps(
        tmp_path / "other", random_maps(coarser(shapes, 2), 2, 1), level=1, first_id=first_id
    )
    with LevelReader(folder, 1) as other:
        beside = [Companion((opened.beside[0].readers[0], other), stride)]
        with pytest.raises(CacheError, match=told):
            stream_of(opened, [replace(beside[0], readers=(other,))])
        with pytest.raises(CacheError):
            next(whole_map_batches(opened.level, 2, beside=beside))


def test_readers_that_cannot_take_turns_or_be_read_beside_a_level_are_refused(
    opened: Opened,
) -> None:
    decoded, latents = (companion.readers[0] for companion in opened.beside)
    with pytest.raises(CacheError, match=r"is of 5 channels in float32, .* of 2 channels"):
        Companion((decoded, latents), 2)
    with LevelReader(decoded.cache, 1) as other:
        plan = other.manifest
        other.manifest = replace(plan, crop=3)
        with pytest.raises(CacheError, match=r"map0, level 1: holds crops of 3 positions"):
            Companion((decoded, other), 2)
        code = ByteCode(scale=(1.0, 1.0), offset=(0.0, 0.0))
        other.manifest = replace(plan, dtype="uint8", codes={1: code})
        with pytest.raises(CacheError, match=r"map0, level 1: is stored in 8 bits"):
            Companion((other,), 2)
    with LevelReader(opened.level.cache, 0) as level:
        level.manifest = replace(level.manifest, crop=3)
        with pytest.raises(CacheError, match=r"level, level 0: holds crops of 3 positions"):
            LevelStream(level, batch_size=1, crop=None, beside=opened.beside)


def test_crops_smaller_than_the_common_stride_are_refused_where_they_are_no_whole_maps(
    opened: Opened,
) -> None:
    with pytest.raises(ConfigError, match=r"crops of 5 .* smaller than 6.* at least 6, or null"):
        stream_of(opened, opened.beside, crop=5)
    stream_of(opened, [], crop=5)
    (batch, *_) = stream_of(opened, [], crop=5)
    assert batch.beside == ()
