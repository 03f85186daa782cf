"""State dicts: a model's weights in what a training loop saved, and what they show of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from extract.detector.pytorch_files import stands_for

# Averages come last: the weights themselves, if they are there, are what was trained.
WRAPPERS = (
    "model", "state_dict", "model_state_dict", "model_state", "net", "network", "weights",
    "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "averaged_model",
)  # fmt: skip
# What torch.compile, FSDP and activation checkpointing put into the middle of a name.
_INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# What modules that hold the model put before it: DDP, AveragedModel, Lightning, one's own.
_HOLDERS = ("module", "model", "net", "network", "codec", "detector", "ema", "ema_model")
_AVERAGES = ("ema", "avg", "average", "swa", "teacher", "shadow")
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


def find_state(content: object) -> dict[str, Tensor] | None:
    """Return the state dict in a file's content, bare, wrapped or of a whole model; None: none."""
    if not isinstance(content, Mapping):
        return None
    for candidate in (*(content.get(key) for key in WRAPPERS), content):
        if state := _state_of(candidate):
            return state
    return None


def _state_of(candidate: object) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of a model that was saved whole; {}: it is neither."""
    if stands_for(candidate) is not None:
        return dict(_of_module(candidate, ""))
    if not isinstance(candidate, Mapping):
        return {}
    state = {str(key): value for key, value in candidate.items() if isinstance(value, Tensor)}
    # A loop's own tensors, such as its loss, are no weights; those have dotted names.
    return state if any("." in key for key in state) else {}


def _of_module(module: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield name -> tensor of what stands for a module, as its state_dict() would."""
    parts = getattr(module, "__dict__", {})
    passing = parts.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (parts.get(kind) or {}).items():
            if isinstance(tensor, Tensor) and name not in passing:
                yield prefix + name, tensor.detach()
    for name, child in (parts.get("_modules") or {}).items():
        yield from _of_module(child, f"{prefix}{name}.")


def unwrapped(state: Mapping[str, Tensor], root: str | None = None) -> dict[str, Tensor]:
    """Return the state dict under the model's own names, without what wrappers put before them.

    `root`: a part that the model surely has, such as `backbone`: names begin with it or beside it,
    whatever stands before. Without, the usual holders' names are taken off all names alike.
    """
    for inserted in _INSERTED:
        state = {key.replace(inserted, ""): tensor for key, tensor in state.items()}
    prefix = _prefix_of_all(state) if root is None else _prefix_of_root(state, root)
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in state.items()
        if key.startswith(prefix) and key != "n_averaged"  # of an AveragedModel
    }


def _prefix_of_root(state: Mapping[str, Any], root: str) -> str:
    """Return what stands before the model's parts: of the copy with most, not an average's."""
    names = [f".{key}" for key in state if f".{root}." in f".{key}"]
    found = Counter(name.partition(f".{root}.")[0] for name in names)
    if not found:
        return ""
    best = min(found, key=lambda prefix: (-found[prefix], _is_average(prefix), len(prefix)))
    return f"{best[1:]}." if best else ""


def _is_average(prefix: str) -> bool:
    return any(word in prefix.lower() for word in _AVERAGES)


def _prefix_of_all(state: Mapping[str, Any]) -> str:
    prefix = ""
    while True:
        first = {key.removeprefix(prefix).partition(".")[0] for key in state} - {"n_averaged"}
        if len(first) != 1 or not first <= set(_HOLDERS):
            return prefix
        prefix += f"{first.pop()}."


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
