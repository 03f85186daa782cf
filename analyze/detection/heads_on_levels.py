"""Run a torchvision detector's heads on given feature maps; the backbone is never run.

Detection on the combinations of an analysis differs in one level or a few. The dense head looks at
levels one by one, and a box head at boxes one by one, each on one level (Lin et al. 2017, Feature
Pyramid Networks, equation 1): what stays as it was need not be computed again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from analyze.detection.roi_align import RoIAlignByRows, pooled_maps

_MOST_POSITIONS = 2**20  # of all levels and combinations: 1 GiB of 256 channels in float32
_BYTES_AT_A_POSITION = 2**15  # of maps, answers and pooled boxes, while several images are there


class CachedBackbone(nn.Module):
    """Stands where the backbone was: ignores the image, returns the levels it was given."""

    def __init__(self, levels: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.levels = OrderedDict(levels)

    def forward(self, _images: Tensor) -> OrderedDict[str, Tensor]:
        """Return key -> [1, C, H, W], finest first."""
        return self.levels


@contextmanager
def cached_backbone(detector: nn.Module, levels: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block, `detector` sees `levels` as its backbone's output, and draws no masks."""
    real = detector.backbone
    heads = getattr(detector, "roi_heads", None)
    mask_pool = getattr(heads, "mask_roi_pool", None)
    detector.backbone = CachedBackbone(levels)
    if heads is not None and mask_pool is not None:
        # Boxes alone are evaluated; pasting masks into the image would take most of the time.
        heads.mask_roi_pool = None
    try:
        yield
    finally:
        detector.backbone = real
        if heads is not None and mask_pool is not None:
            heads.mask_roi_pool = mask_pool


@torch.no_grad()
def detect_from_levels(
    detector: nn.Module, levels: Mapping[str, Tensor], original_hw: tuple[int, int]
) -> dict[str, Tensor]:
    """Return one image's `boxes` float32 [N, 4] xyxy px, `labels` int64 [N], `scores` [N], on CPU.

    `levels` are key -> [1, C, H, W] of any float dtype, in the backbone's order; `original_hw` is
    the image's size before resizing. The detector must be in eval mode.
    """
    return _detect(detector, [levels], original_hw)[0]


def takes_batches(detector: nn.Module) -> bool:
    """Say whether a detector's heads are known to see each image of a batch by itself."""
    return isinstance(detector, (GeneralizedRCNN, RetinaNet, FCOS))


@torch.no_grad()
def detect_together(
    detector: nn.Module, combinations: Iterable[Mapping[str, Tensor]], original_hw: tuple[int, int]
) -> list[dict[str, Tensor]]:
    """As `detect_from_levels` for several combinations of one image's levels, as one batch.

    For detectors that `takes_batches`; results may differ from those one by one in the last bits.
    What is asked of a GPU for one image it is asked for all at once, as many as fit into half of
    its memory with other images beside them.
    """
    most_positions = _most_positions(next(detector.parameters()).device)
    found: list[dict[str, Tensor]] = []
    together: list[Mapping[str, Tensor]] = []
    for levels in combinations:
        positions = sum(maps.shape[-2] * maps.shape[-1] for maps in levels.values())
        if together and (len(together) + 1) * positions > most_positions:
            found += _detect(detector, together, original_hw)
            together = []
        together.append(levels)
    return found + (_detect(detector, together, original_hw) if together else [])


def _most_positions(device: torch.device) -> int:
    if device.type != "cuda":
        return _MOST_POSITIONS
    num_bytes = int(torch.cuda.get_device_properties(device).total_memory)
    return min(_MOST_POSITIONS, num_bytes // 2 // _BYTES_AT_A_POSITION)


def _detect(
    detector: nn.Module, combinations: Sequence[Mapping[str, Tensor]], original_hw: tuple[int, int]
) -> list[dict[str, Tensor]]:
    device = next(detector.parameters()).device
    # Only the image's size matters: the transform derives the padded input and the anchors from it.
    image = torch.zeros(3, *original_hw, device=device)
    features = {
        key: (
            combinations[0][key]
            if len(combinations) == 1
            else torch.cat([levels[key] for levels in combinations])
        ).to(device, torch.float32)
        for key in combinations[0]
    }
    with cached_backbone(detector, features):
        results: list[dict[str, Tensor]] = detector([image] * len(combinations))
    return [
        {name: result[name].cpu() for name in ("boxes", "labels", "scores")} for result in results
    ]


@torch.no_grad()
def backbone_keys(detector: nn.Module) -> tuple[str, ...]:
    """Return the keys of all levels that the heads expect, finest first."""
    device = next(detector.parameters()).device
    backbone = detector.backbone
    assert isinstance(backbone, nn.Module)
    return tuple(backbone(torch.zeros(1, 3, 64, 64, device=device)))


_DENSE_HEADS = (RPNHead, RetinaNetHead, FCOSHead)


class _DenseHead(nn.Module):
    """A dense head that answers for a level's tensor once: torchvision's take levels one by one."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.known: dict[int, tuple[Tensor, Any]] = {}

    def forward(self, levels: list[Tensor]) -> Any:
        """Return what the head returns for these levels."""
        answers = [self._answer(maps) for maps in levels]
        if isinstance(answers[0], dict):
            return {name: torch.cat([each[name] for each in answers], 1) for name in answers[0]}
        return tuple([each[part][0] for each in answers] for part in range(len(answers[0])))

    def _answer(self, maps: Tensor) -> Any:
        # The tensor is held too: its id cannot come back as another's.
        if id(maps) not in self.known:
            self.known[id(maps)] = (maps, self.head([maps]))
        return self.known[id(maps)][1]


class _BoxHead(nn.Module):
    """Stands where a box head's pooling was, and gives the answers that its predictor would give.

    The head and the predictor themselves are passed through (`_Passed`).
    """

    def __init__(self, heads: Any) -> None:
        super().__init__()
        self.pool, self.head, self.predictor = (
            heads.box_roi_pool, heads.box_head, heads.box_predictor,
        )  # fmt: skip
        self.known: dict[tuple[int, bytes], tuple[Tensor, Tensor]] = {}
        self.held: dict[int, Tensor] = {}

    def forward(
        self, x: Mapping[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[Any]
    ) -> tuple[Tensor, Tensor]:
        """Return class logits [K, classes] and offsets [K, 4 classes] for one image's boxes."""
        (box,) = boxes
        keys = self._keys(x, box, image_shapes)
        new = [number for number, key in enumerate(keys) if key not in self.known]
        if new or not keys:
            logits, offsets = self.predictor(self.head(self.pool(x, [box[new]], image_shapes)))
            if not keys:
                return logits, offsets
            for number, *answer in zip(new, logits, offsets, strict=True):
                self.known[keys[number]] = (answer[0], answer[1])
        answers = [self.known[key] for key in keys]
        return torch.stack([row for row, _ in answers]), torch.stack([row for _, row in answers])

    def _keys(
        self, x: Mapping[str, Tensor], box: Tensor, image_shapes: Sequence[Any]
    ) -> list[tuple[int, bytes]]:
        """Return each box's level's tensor, by its id, and its coordinates."""
        maps, level_of = pooled_maps(_multiscale(self.pool), x, box, image_shapes)
        # Held, so that no id comes back as another tensor's.
        self.held.update({id(each): each for each in maps})
        raw = box.cpu().numpy().tobytes()
        size = len(raw) // max(1, len(box))
        return [
            (id(maps[level]), raw[number * size : (number + 1) * size])
            for number, level in enumerate(level_of.tolist())
        ]


class _Passed(nn.Module):
    """Returns what it is given."""

    def forward(self, answers: Any) -> Any:
        return answers


@contextmanager
def remembered_heads(detector: Any) -> Iterator[None]:
    """Within the block, which is for one image, heads compute what they have not computed yet.

    Levels must be given as the very same tensors to be known again. Heads other than torchvision's
    stay as they are: they might look at several levels, or boxes, together.
    """
    usual: list[tuple[Any, str, nn.Module]] = []

    def replace(owner: Any, **modules: nn.Module) -> None:
        for name, module in modules.items():
            usual.append((owner, name, getattr(owner, name)))
            setattr(owner, name, module)

    owner = getattr(detector, "rpn", detector)
    if isinstance(getattr(owner, "head", None), _DENSE_HEADS):
        replace(owner, head=_DenseHead(owner.head))
    heads = getattr(detector, "roi_heads", None)
    if isinstance(heads, RoIHeads) and _looks_at_boxes_one_by_one(heads):
        replace(heads, box_roi_pool=_BoxHead(heads), box_head=_Passed(), box_predictor=_Passed())
    try:
        yield
    finally:
        for place, name, module in usual:
            setattr(place, name, module)


def _looks_at_boxes_one_by_one(heads: Any) -> bool:
    return (
        _multiscale(heads.box_roi_pool) is not None
        and isinstance(heads.box_head, (TwoMLPHead, FastRCNNConvFCHead))
        and isinstance(heads.box_predictor, FastRCNNPredictor)
    )


def _multiscale(pool: Any) -> MultiScaleRoIAlign | None:
    inner = pool.pool if isinstance(pool, RoIAlignByRows) else pool
    return inner if isinstance(inner, MultiScaleRoIAlign) else None
