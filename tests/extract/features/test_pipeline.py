"""Images on their way through the backbone: batches of a GPU, and what a batch's maps are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.cache.manifest import Manifest
from data.cache.plan import units_of
from extract.detector.loading import LoadedDetector
from extract.features.maps import Download
from extract.features.pipeline import _on_cpu, _on_gpu, usual_batch_size
from tests.support.devices import DEVICES
from tests.support.extraction import plan_of


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
    alone = list(_on_cpu(detector.model, manifest, units, num_cores=1))
    model = detector.model.to(device)
    batches = list(_on_gpu(model, manifest, units, batch_size, num_workers=2))
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
            assert maps[level].device.type == "cpu" and maps[level].shape == whole.shape
            # Sums go in another order on a GPU, and may go with the batch on a CPU.
            tolerance = 1e-3 if device == "cuda" else 1e-5
            scale = float(whole.abs().max())
            torch.testing.assert_close(maps[level], whole, rtol=0, atol=tolerance * scale)


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
