"""RoIAlign by rows gives what torchvision's own does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import MultiScaleRoIAlign, roi_align

from analyze.detection.roi_align import RoIAlignByRows, roi_align_by_rows


@settings(max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    samples=st.integers(1, 3),
    side=st.integers(1, 7),
    seed=st.integers(0, 10_000),
)
def test_pooled_values_are_torchvisions_even_for_boxes_beyond_the_map(
    height: int, width: int, samples: int, side: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((1, 5, height, width), generator=generator)
    corners = torch.rand((9, 2), generator=generator) * torch.tensor([width, height]) * 6 - 8
    sizes = torch.rand((9, 2), generator=generator) * 60
    sizes[0] = 0
    boxes = torch.cat([corners, corners + sizes], dim=1)
    expected = roi_align(
        features, [boxes], side, spatial_scale=0.25, sampling_ratio=samples, aligned=False
    )
    found = roi_align_by_rows(features, boxes, side=side, scale=0.25, samples=samples)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_maps", [1, 4])
def test_boxes_are_pooled_from_the_level_that_torchvision_takes(num_maps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    names = [str(level) for level in range(num_maps)]
    maps = {
        name: torch.randn((1, 8, 64 >> level, 96 >> level), generator=generator)
        for level, name in enumerate([*names, "pool"])
    }
    corners = torch.rand((50, 2), generator=generator) * 200
    sizes = 2 ** (torch.rand((50, 1), generator=generator) * 8)
    boxes = torch.cat([corners, corners + sizes], dim=1)
    own = MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2)
    ours = RoIAlignByRows(MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2))
    arguments = (maps, [boxes], [(256, 384)])
    torch.testing.assert_close(ours(*arguments), own(*arguments), rtol=1e-5, atol=1e-5)
    assert ours(maps, [boxes[:0]], [(256, 384)]).shape == (0, 8, 7, 7)
