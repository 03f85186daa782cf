"""What a detector's weights show of it: classes, FPN channels, levels, anchors, whose layers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_FPN_CHANNELS = re.compile(r"backbone\.fpn\.layer_blocks\.0\.(0\.)?weight")
_FPN_LEVEL = re.compile(r"backbone\.fpn\.inner_blocks\.(\d+)\.")
# Names that only another library's detectors have.
_OTHER_LIBRARIES = {
    "detectron2": ("backbone.bottom_up.", "proposal_generator."),
    "MMDetection": ("neck.", "bbox_head.", "rpn_head.", "roi_head."),
    "Ultralytics": ("model.0.conv.", "0.conv."),
    "Transformers": ("model.backbone.conv_encoder.", "backbone.conv_encoder."),
}
_BY_A_FACTORY = "build it by a factory of your own, detector.builder package.module:factory"


def num_classes_of(state: Mapping[str, Tensor]) -> int | None:
    """Size of the class head in a state dict, background included (as torchvision counts)."""
    if (box := state.get("roi_heads.box_predictor.cls_score.weight")) is not None:
        return int(box.shape[0])
    logits, anchors = state.get("head.classification_head.cls_logits.weight"), _anchors(state)
    return int(logits.shape[0]) // anchors if logits is not None and anchors else None


def misfit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Say why a state dict is not of the model that expects another one, and what to do then."""
    for library, beginnings in _OTHER_LIBRARIES.items():
        if any(key.startswith(beginnings) for key in state):
            return f"it has the layers of {library}, not of torchvision: {_BY_A_FACTORY}"
    its, wanted = _facts(state), _facts(expected)
    if not _kind(expected) <= _kind(state):
        its = {}  # another body or another head: the rest differs for that reason
    different = [
        f"{its[what]} {what}, and not {wanted[what]}"
        for what in its.keys() & wanted.keys()
        if its[what] != wanted[what]
    ]
    if different:
        return f"it has {', '.join(sorted(different))}: {_BY_A_FACTORY}"
    return "name the builder that the checkpoint was trained with"


def _kind(state: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the body's layers, and of the detector's parts."""
    body = {key for key in state if key.startswith("backbone.body.")}
    return {key for key in body if "num_batches" not in key} | {
        key.partition(".")[0] for key in state
    }


def _facts(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return what the weights show, by what to call it in words."""
    facts = {
        "classes with the background": num_classes_of(state),
        "channels in its FPN": _fpn_channels(state),
        "levels below its FPN": len({m[1] for key in state if (m := _FPN_LEVEL.match(key))}),
        "anchors at each position": _anchors(state),
    }
    return {what: number for what, number in facts.items() if number}


def _fpn_channels(state: Mapping[str, Tensor]) -> int | None:
    found = [tensor.shape[0] for key, tensor in state.items() if _FPN_CHANNELS.fullmatch(key)]
    return int(found[0]) if found else None


def _anchors(state: Mapping[str, Tensor]) -> int | None:
    if (logits := state.get("rpn.head.cls_logits.weight")) is not None:
        return int(logits.shape[0])
    boxes = state.get("head.regression_head.bbox_reg.weight")
    return None if boxes is None else int(boxes.shape[0]) // 4
