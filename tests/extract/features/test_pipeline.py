"""Images on their way through the backbone: batches of a GPU, and what a batch's maps are."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from configs.config_files import load_config
from data.cache.commit_log import CommitLog
from data.cache.manifest import Manifest
from data.cache.plan import Unit, units_of
from data.images.image_sets import load_images
from data.images.records import ImageSet
from data.verification.check import verify_cache
from data.writing.settle import settle_cache
from data.writing.stored_sample import STORED_DTYPES, StoredMap, stored_maps
from data.writing.writer import CacheWriter
from extract.detector.loading import LoadedDetector, load_detector
from extract.features.busy_times import BusyTimes
from extract.features.extraction import plan_extraction
from extract.features.maps import Download, Maps
from extract.features.pipeline import ReusedBuffers, _on_cpu, _on_gpu, usual_batch_size
from tests.support.devices import DEVICES
from tests.support.extraction import plan_of, shard_bytes


@pytest.fixture
def plan(tiny_config: Path) -> tuple[Manifest, LoadedDetector]:
    return plan_of(tiny_config)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_give_the_maps_of_each_image_alone_in_the_order_of_the_plan(
    plan: tuple[Manifest, LoadedDetector], device: str, batch_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as exact as a CPU
    manifest, detector = plan
    units = units_of(manifest)
    alone = list(_on_cpu(detector.model, manifest, units, 1, BusyTimes()))
    model = detector.model.to(device)
    busy = BusyTimes()
    batches = list(_on_gpu(model, manifest, units, batch_size, 2, busy))
    assert {"decode", "backbone"} <= busy.shares(1.0).keys() <= {"decode", "backbone", "copy"}
    counts = [len(maps[0]) for _, maps in batches]
    assert max(counts) == min(batch_size, max(unit.num_rows for unit in units))
    in_turn = [
        (unit.index, {level: parts[row] for level, parts in maps.items()})
        for unit, maps in batches
        for row in range(len(maps[0]))
    ]
    for (unit, maps), (expected_unit, expected) in zip(in_turn, alone, strict=True):
        assert unit == expected_unit.index
        for level, [whole] in expected.items():
            values = maps[level].values
            assert values.device.type == "cpu" and values.shape == whole.shape
            assert values.dtype == torch.float16 and maps[level].summed_on == device
            # float16 has 11 digits. Sums go in another order on a GPU, and with the batch on a CPU.
            scale = float(whole.abs().max())
            torch.testing.assert_close(values.float(), whole, rtol=2**-11, atol=1e-3 * scale)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "crop"), [("float16", None), ("float32", None), ("float16", 8)])
def test_what_a_device_has_cast_is_written_without_numba_to_the_bytes_of_the_cpus_way(
    tiny_config: Path, tmp_path: Path, device: str, dtype: str, crop: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = load_config(str(tiny_config))
    detector = load_detector(settings.detector)
    images = load_images(settings.data, "val")
    config = settings.cache.model_copy(update={"dtype": dtype, "crop": crop})
    manifest = plan_extraction("tiny", images, detector, settings.detector, config)
    units, model = units_of(manifest), detector.model
    computed = list(_on_cpu(model, manifest, units, 1, BusyTimes()))

    def on_device(maps: Maps) -> Maps:
        """What the device makes of the very same maps."""
        return {level: [stored(x, dtype, device) for x in each] for level, each in maps.items()}

    write(tmp_path / "cpu", manifest, images, computed)
    monkeypatch.setitem(sys.modules, "data.writing.cast_kernel", None)  # cannot be imported
    on_gpu = [(unit, on_device(maps)) for unit, maps in computed]
    write(tmp_path / "device", manifest, images, on_gpu)
    if device == "cpu":
        batches = list(_on_gpu(model, manifest, units, 1, 1, BusyTimes()))
        write(tmp_path / "whole way", manifest, images, batches)
        assert shards(tmp_path / "whole way") == shards(tmp_path / "cpu")
    assert shards(tmp_path / "device") == shards(tmp_path / "cpu")
    assert verify_cache(tmp_path / "device").verdict == "whole"


def stored(computed: Any, dtype: str, device: str) -> StoredMap:
    features = computed.permute(2, 0, 1)[None].to(device)
    values, sums = stored_maps(features, STORED_DTYPES[dtype])
    return StoredMap(values=values[0].cpu(), sums=sums[0].cpu().numpy(), summed_on=device)


def write(
    folder: Path, manifest: Manifest, images: ImageSet, batches: list[tuple[Unit, Maps]]
) -> None:
    folder.mkdir()
    with CommitLog(folder) as log:
        there = settle_cache(folder, manifest, images, log, overwrite=False)
        with closing(CacheWriter(there, manifest, log)) as writer:
            writer.prepare()
            for unit, maps in batches:
                writer.write(unit, maps)
            writer.finish()


def shards(folder: Path) -> dict[str, str]:
    """All files but the sums, which go in another order."""
    return {k: v for k, v in shard_bytes(folder).items() if not k.startswith("statistics")}


@pytest.mark.parametrize(
    ("input_px", "image_px", "expected"),
    [
        ((256, 256), (375, 500), 64),
        ((800, 1344), (480, 640), 4),
        ((256, 256), (3000, 4000), 1),
        ((256, 256), (1080, 1920), 8),
        ((4096, 4096), (480, 640), 1),
    ],
)
def test_a_gpu_gets_batches_that_neither_images_nor_inputs_make_too_large(
    plan: tuple[Manifest, LoadedDetector], input_px: tuple[int, int], image_px: tuple[int, int],
    expected: int,
) -> None:  # fmt: skip
    manifest, _ = plan
    bucket = replace(manifest.buckets[0], height_px=input_px[0], width_px=input_px[1])
    samples = tuple(
        replace(sample, height=image_px[0], width=image_px[1]) for sample in manifest.samples
    )
    large = replace(manifest, buckets=(bucket, *manifest.buckets[1:]), samples=samples)
    on_gpu = SimpleNamespace(parameters=lambda: iter([torch.empty(0, device="meta")]))
    assert usual_batch_size(on_gpu, large, 0) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_downloaded_is_what_was_computed_though_more_is_computed_meanwhile(
    device: str,
) -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(8, 64, 64, 64, generator=generator)
    downloads = []
    for number in range(20):
        computed = before.to(device) * number
        downloads.append(Download([computed.permute(0, 2, 3, 1), computed[0, 0] + 1]))
        del computed
        torch.randn(8, 64, 64, 64, device=device).mul_(2)
    for number, download in enumerate(downloads):
        whole, part = download.wait()
        assert whole.device.type == part.device.type == "cpu"
        assert torch.equal(whole, (before * number).permute(0, 2, 3, 1))
        assert torch.equal(part, before[0, 0] * number + 1)
        assert whole.permute(0, 3, 1, 2).is_contiguous()


def test_memory_is_ones_own_until_it_is_given_back_and_serves_images_of_like_size_then() -> None:
    buffers = ReusedBuffers(pinned=False)
    first, second = buffers.take((300, 400, 3)), buffers.take((300, 400, 3))
    first.fill_(1), second.fill_(2)
    assert first.shape == (300, 400, 3) and first.is_contiguous()
    assert first.dtype == torch.uint8 and (first == 1).all()
    places = {first.data_ptr(), second.data_ptr()}
    buffers.give_back([first, second])
    larger = [buffers.take((330, 410, 3)), buffers.take((401, 301, 3))]
    assert {each.data_ptr() for each in larger} == places
    assert buffers.take((330, 410, 3)).data_ptr() not in places


def test_images_of_every_size_are_served() -> None:
    buffers = ReusedBuffers(pinned=False)
    for shape in [(1, 1, 3), (256, 256, 1), (256, 257, 1), (2000, 3000, 3)]:
        taken = buffers.take(shape)
        assert taken.shape == shape
        buffers.give_back([taken])
