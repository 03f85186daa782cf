"""Find a model's weights in what a training loop saved: under which key, behind which wrappers."""

from __future__ import annotations

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
