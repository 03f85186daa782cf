"""What a detector's labels mean: how many it tells apart, and which categories they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from configs.errors import ConfigError


def label_to_category(
    classes: tuple[str, ...] | None, num_labels: int, categories: Mapping[int, str]
) -> dict[int, int]:
    """Map the detector's labels 1..num_labels to the data set's category ids.

    By name where the detector names its classes, else by order where the counts agree, else label
    and id are taken to be the same number (COCO's 91). Raises ConfigError if none of these fits.
    """
    if classes is not None:
        by_name = {name.lower(): category for category, name in categories.items()}
        mapping = {
            label: by_name[name.lower()]
            for label, name in enumerate(classes, start=1)
            if name.lower() in by_name
        }
        if mapping:
            return mapping
    ordered = sorted(categories)
    if num_labels == len(ordered):
        return dict(enumerate(ordered, start=1))
    if ordered and ordered[-1] <= num_labels:
        return {category: category for category in ordered}
    raise ConfigError(
        f"the detector's {num_labels} classes {list(classes or ())} match none of the data set's "
        f"{len(ordered)} categories {list(categories.values())}: use a checkpoint trained on them"
    )


def num_labels(model: Any) -> int:
    """Return how many classes the detector's head tells apart, background not counted."""
    state = model.state_dict()
    count = num_classes_of(state)
    if count is None:
        raise ConfigError("the detector's head is unknown: its number of classes cannot be read")
    return count - 1


def num_classes_of(state: Mapping[str, Tensor]) -> int | None:
    """Size of the class head in a state dict, background included (as torchvision counts)."""
    if (box := state.get("roi_heads.box_predictor.cls_score.weight")) is not None:
        return int(box.shape[0])
    logits = state.get("head.classification_head.cls_logits.weight")
    boxes = state.get("head.regression_head.bbox_reg.weight")
    if logits is not None and boxes is not None:
        return int(logits.shape[0]) // (int(boxes.shape[0]) // 4)
    return None
