"""What a detector of the user's own detects by, beside its weights: settings, parts, code.

A builder's name says all of that; a factory may choose other thresholds tomorrow, with the same
weights. Everything that hangs on the model is looked at, as nobody knows what it calls a threshold.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from configs.own_code import code_of

# How a module works inside torch, and its weights, which are hashed by themselves.
_TORCHS_OWN = frozenset(vars(nn.Module()))
_PLAIN = (type(None), bool, int, float, complex, str, bytes, Path)
_HOLDERS = {"argparse", "collections", "dataclasses", "enum", "types"}  # of somebody's settings


def identity_of(model: Any, builder: str) -> str:
    """Return the SHA-256 of a model's settings, its parts' classes, their files, and the factory's.

    Equal for two models only if they detect alike on the same features with the same weights, but
    for what the files themselves import.
    """
    told = [code_of(builder), torch.__version__, torchvision.__version__, _described(model, {})]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _described(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    """Return what JSON can hold of a value, the same in every process.

    `seen` holds the values, so that no id comes back as another one's.
    """
    if isinstance(value, _PLAIN):
        return [type(value).__name__, str(value)]
    if isinstance(value, Tensor):
        value = value.detach().cpu().float().numpy()
    if isinstance(value, np.ndarray | np.generic):
        return ["array", list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if id(value) in seen:
        return ["again", seen[id(value)][0]]
    seen[id(value)] = (len(seen), value)
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(_described(each, seen) for each in value)]
    if isinstance(value, set | frozenset):
        return ["set", sorted(json.dumps(_described(each, seen)) for each in value)]
    if isinstance(value, Mapping):
        return ["dict", *([str(key), _described(value[key], seen)] for key in value)]
    if isinstance(value, functools.partial):
        return ["partial", _described([value.func, value.args, value.keywords], seen)]
    if inspect.ismodule(value):
        return ["module", value.__name__]
    if isinstance(value, type):
        return _code(value)
    if hasattr(value, "__qualname__"):  # functions and methods, ours and C's
        names = ("__self__", "__defaults__", "__kwdefaults__")
        cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        bound = [getattr(value, name, None) for name in names]
        return [*_code(value), _described([*bound, cells], seen)]
    return [*_code(type(value)), *_parts(value, seen)]


def _parts(value: Any, seen: dict[int, tuple[int, Any]]) -> list[Any]:
    library = type(value).__module__.partition(".")[0]
    if library in sys.stdlib_module_names - _HOLDERS:
        return []  # a logger or a lock hangs together with the whole process
    slots = getattr(type(value), "__slots__", ())
    names = [*getattr(value, "__dict__", {}), *([slots] if isinstance(slots, str) else slots)]
    parts = {name: getattr(value, name, None) for name in names}
    if isinstance(value, nn.Module):
        parts = {name: part for name, part in parts.items() if name not in _TORCHS_OWN}
        parts |= dict(value.named_children())
    return [[name, _described(parts[name], seen)] for name in sorted(parts)]


def _code(kind: Any) -> list[str]:
    """Return a class's or function's name, and the hash of its file if that is not torch's."""
    module = getattr(kind, "__module__", None) or ""
    name = f"{module}.{kind.__qualname__}"
    if module.partition(".")[0] in ("torch", "torchvision", "builtins", ""):
        return [name]
    try:
        file = inspect.getsourcefile(kind)
    except TypeError:  # it is written in C
        file = None
    return [name] if file is None else [name, hashlib.sha256(Path(file).read_bytes()).hexdigest()]
