"""Heads that remember give what they give without, and compute less."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from analyze.detection import heads_on_levels
from analyze.detection.heads_on_levels import (
    detect_from_levels,
    detect_together,
    remembered_heads,
    takes_batches,
)
from tests.analyze.detection.test_heads_on_levels import BUILDERS, own_levels, small_detector


def changed_levels(detector: Any) -> list[dict[str, Tensor]]:
    """Return an image's levels, and with each level changed in turn."""
    image = torch.rand(3, 75, 110, generator=torch.Generator().manual_seed(1))
    levels = own_levels(detector, image)
    generator = torch.Generator().manual_seed(2)
    return [levels] + [
        {**levels, key: maps + torch.randn(maps.shape, generator=generator)}
        for key, maps in levels.items()
    ]


@pytest.mark.parametrize("builder", list(BUILDERS))
def test_remembering_heads_and_batches_find_the_same_and_leave_the_detector_as_it_was(
    builder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = small_detector(builder)
    combinations = changed_levels(detector)
    expected = [detect_from_levels(detector, each, (75, 110)) for each in combinations]
    names = list(dict(detector.named_modules()))
    with remembered_heads(detector):
        found = [detect_from_levels(detector, each, (75, 110)) for each in combinations]
        again = detect_from_levels(detector, combinations[0], (75, 110))
    assert takes_batches(detector)
    positions = sum(maps.shape[-2] * maps.shape[-1] for maps in combinations[0].values())
    monkeypatch.setattr(heads_on_levels, "_MOST_POSITIONS", 2 * positions)
    together = detect_together(detector, iter(combinations[:3]), (75, 110))
    assert len(together) == 3
    for one, other in zip([*expected, *expected[:3]], [*found, *together], strict=True):
        # Rows of a smaller, or larger, matrix product may differ in their last bits.
        assert torch.equal(one["labels"], other["labels"])
        for name in ("boxes", "scores"):
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-4)
    assert all(torch.equal(found[0][name], again[name]) for name in again)
    assert not torch.equal(found[0]["scores"], found[1]["scores"])
    assert list(dict(detector.named_modules())) == names


def test_box_head_sees_no_box_on_the_same_tensor_twice() -> None:
    detector: Any = small_detector("fasterrcnn_mobilenet_v3_large_fpn")
    rows: list[int] = []
    detector.roi_heads.box_head.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    combinations = changed_levels(detector)
    for each in combinations:
        detect_from_levels(detector, each, (75, 110))
    plain, rows[:] = list(rows), []
    with remembered_heads(detector):
        for each in [*combinations, *combinations]:
            detect_from_levels(detector, each, (75, 110))
    assert rows[0] == plain[0]
    assert sum(rows) < sum(plain)


def test_heads_of_another_kind_are_left_as_they_are() -> None:
    detector: Any = small_detector("fasterrcnn_mobilenet_v3_large_fpn")
    detector.roi_heads.box_head = torch.nn.Sequential(detector.roi_heads.box_head)
    with remembered_heads(detector):
        assert isinstance(detector.roi_heads.box_head, torch.nn.Sequential)


@pytest.mark.gpu
@pytest.mark.parametrize("builder", list(BUILDERS))
def test_batch_of_combinations_on_a_gpu_finds_what_the_cpu_finds_one_by_one(builder: str) -> None:
    detector = small_detector(builder)
    combinations = changed_levels(detector)
    expected = [detect_from_levels(detector, each, (75, 110)) for each in combinations]
    detector.cuda()
    there = [{key: maps.cuda() for key, maps in each.items()} for each in combinations]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = detect_together(detector, there, (75, 110))
    for one, other in zip(expected, found, strict=True):
        assert len(one["scores"]) == len(other["scores"])
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-3, atol=1e-3)
