"""The detector's own loss of one level is torchvision's, cut down to what lies on the map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from tests.support.tiny_detectors import KINDS, heads_of, random_maps, tiny_detector
from train.objective.detection_loss import detection_losses
from train.objective.map_places import MapPlace

HEIGHT_PX, WIDTH_PX = 64, 96
BOXES = torch.tensor([[12.0, 14.0, 44.0, 42.0], [50.0, 8.0, 74.0, 40.0]])
LABELS = torch.tensor([2, 1])
WHOLE = MapPlace(
    top=0, left=0, height=8, width=12, padded_hw=(HEIGHT_PX, WIDTH_PX), boxes=BOXES, labels=LABELS
)
NO_BOXES = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def shifted(boxes: Tensor) -> Tensor:
    """The boxes moved by a tenth of their sides in four directions."""
    width, height = ((boxes[:, 2 + k] - boxes[:, k]) / 10 for k in (0, 1))
    zero = torch.zeros_like(width)
    moves = [(width, zero), (-width, zero), (zero, height), (zero, -height)]
    return torch.cat([boxes + torch.stack([x, y, x, y], 1) for x, y in moves])


def torchvisions_loss(model: Any, maps: Tensor, proposals: Tensor) -> Tensor:
    """What the detector says in training of one image with one level, all anchors drawn."""
    images = ImageList(torch.zeros(1, 3, HEIGHT_PX, WIDTH_PX), [(HEIGHT_PX, WIDTH_PX)])
    targets = [{"boxes": BOXES, "labels": LABELS}]
    if not hasattr(model, "rpn"):
        outputs = model.head([maps])
        anchors = model.anchor_generator(images, [maps])
        counts = [[anchors[0].shape[0]]] if "bbox_ctrness" in outputs else []
        losses = model.compute_loss(targets, outputs, anchors, *counts)
        return torch.stack(list(losses.values())).sum()
    model.train()
    _, of_rpn = model.rpn(images, {"0": maps}, targets)
    _, of_boxes = model.roi_heads({"0": maps}, [proposals], images.image_sizes, targets)
    return torch.stack([*of_rpn.values(), *of_boxes.values()]).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_a_whole_map_is_torchvisions_own(kind: str) -> None:
    model, maps = tiny_detector(kind, num_levels=1), random_maps(1, 8, 12)
    heads = heads_of(model)
    if kind == "faster_rcnn":
        model.rpn.fg_bg_sampler.batch_size_per_image = 10**6
        model.roi_heads.fg_bg_sampler.batch_size_per_image = 10**6
    (ours,) = detection_losses(heads, maps, [WHOLE])
    tiles = heads.tiles(8, 12, maps.device) if heads.pools else torch.zeros(0, 4)
    expected = torchvisions_loss(model, maps, torch.cat([shifted(BOXES), tiles]))
    torch.testing.assert_close(ours, expected)
    assert ours > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_object_of_another_level_is_none_here(kind: str) -> None:
    empty = replace(WHOLE, width=24, padded_hw=(64, 192), **NO_BOXES)
    box = {"boxes": torch.tensor([[2.0, 2.0, 190.0, 62.0]]), "labels": torch.tensor([1])}
    maps, model = random_maps(1, 8, 24), tiny_detector(kind)
    fine, coarse = (
        [
            detection_losses(heads_of(model, index), maps[:, :, ::step, ::step], [place])
            for place in (
                replace(empty, height=8 // step, width=24 // step, **boxes) for boxes in ({}, box)
            )
        ]
        for index, step in ((0, 1), (1, 2))
    )
    torch.testing.assert_close(*fine)
    assert not torch.allclose(*coarse)


@pytest.mark.parametrize("kind", KINDS)
def test_crop_beside_all_objects_has_the_loss_of_no_object(kind: str) -> None:
    heads, maps = heads_of(tiny_detector(kind)), random_maps(1, 2, 12)
    below = replace(WHOLE, top=6, height=2)
    without = replace(below, **NO_BOXES)
    torch.testing.assert_close(*(detection_losses(heads, maps, [p]) for p in (below, without)))


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_crops_losses_are_those_of_their_anchors_in_the_whole_image(kind: str) -> None:
    model = tiny_detector(kind, num_levels=1)
    model.head.forward = lambda levels: answers_at_each_position(kind, levels[0])  # sees no edge
    heads, maps = heads_of(model), random_maps(1, 8, 12)
    (whole,) = detection_losses(heads, maps, [WHOLE])
    halves = []
    for left in (0, 6):
        place = replace(WHOLE, left=left, width=6)
        (loss,) = detection_losses(heads, maps[..., left : left + 6], [place])
        halves.append(loss)
    counts = [num_objects(model, slice(left, left + 6)) for left in (0, 6)]
    assert all(counts)
    expected = sum(
        loss * count for loss, count in zip(halves, counts, strict=True)
    ) / sum(counts)  # fmt: skip
    torch.testing.assert_close(torch.as_tensor(expected), whole)


def answers_at_each_position(kind: str, maps: Tensor) -> dict[str, Tensor]:
    num_anchors = 3 if kind == "retinanet" else 1
    values = maps.permute(0, 2, 3, 1).flatten(1, 2)

    def part(first: int, num: int) -> Tensor:
        return values[:, :, first : first + num_anchors * num].reshape(len(maps), -1, num)

    found = {"cls_logits": part(0, 4), "bbox_regression": part(12, 4).abs()}
    return found | ({"bbox_ctrness": part(30, 1)} if kind == "fcos" else {})


def num_objects(model: Any, columns: slice) -> int:
    """How many of the anchors in some columns are to find an object."""
    images = ImageList(torch.zeros(1, 3, HEIGHT_PX, WIDTH_PX), [(HEIGHT_PX, WIDTH_PX)])
    anchors = model.anchor_generator(images, [random_maps(1, 8, 12)])
    found = []
    model.head.compute_loss = lambda _targets, _outputs, _anchors, matched: found.extend(matched)
    counts = [[len(anchors[0])]] if type(model).__name__ == "FCOS" else []
    model.compute_loss([{"boxes": BOXES, "labels": LABELS}], {}, anchors, *counts)
    del model.head.compute_loss
    return int((found[0].view(8, 12, -1)[:, columns] >= 0).sum())


def test_boxes_that_a_crop_cuts_are_not_pooled_and_stay_whole_as_targets() -> None:
    heads = heads_of(tiny_detector("faster_rcnn", num_levels=1))
    heads.detector.roi_heads.box_predictor = Recorder()
    whole = replace(WHOLE, boxes=BOXES[:1], labels=LABELS[:1])
    detection_losses(heads, random_maps(1, 8, 12), [whole])
    cut = replace(whole, left=2, width=10)
    detection_losses(heads, random_maps(1, 8, 10), [cut])
    num_tiles = [len(heads.tiles(8, width, torch.device("cpu"))) for width in (12, 10)]
    assert heads.detector.roi_heads.box_predictor.counts == [5 + num_tiles[0], num_tiles[1]]


class Recorder(torch.nn.Module):
    """A predictor that notes how many boxes it was asked of."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def forward(self, representation: Tensor) -> tuple[Tensor, Tensor]:
        self.counts.append(len(representation))
        return representation[:, :4], representation[:, :16]


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_flows_to_the_maps_and_not_to_the_heads(kind: str) -> None:
    model = tiny_detector(kind)
    maps = random_maps(2, 8, 12).requires_grad_()
    detection_losses(heads_of(model), maps, [WHOLE, replace(WHOLE, **NO_BOXES)]).sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    assert maps.grad.flatten(1).any(1).all()
    assert all(values.grad is None for values in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_a_batch_have_the_losses_that_they_have_alone(kind: str) -> None:
    heads, maps = heads_of(tiny_detector(kind)), random_maps(3, 8, 12)
    places = [WHOLE, replace(WHOLE, top=1, left=2, height=6, width=8), replace(WHOLE, **NO_BOXES)]
    together = detection_losses(heads, maps, places)
    for row, place in enumerate(places):
        alone = maps[row : row + 1, :, : place.height, : place.width]
        (loss,) = detection_losses(heads, alone, [place])
        torch.testing.assert_close(together[row], loss)
