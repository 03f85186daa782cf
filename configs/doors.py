"""The doors of a package: public names whose files are imported when a name is first asked for.

Each package's `__init__` makes its doors here, so this is also where a file of the user's own that
hides one of our packages is noticed: a script named `train.py` hides `train` from what it imports.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("configs", "data", "extract", "train", "analyze")
"""Each needs those before it."""

_PROJECT = Path(__file__).resolve().parents[1]


def open_doors(
    package: str, files: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package; `files`: public name -> module that has it.

    Raises ImportError if something else stands where a package is that this one needs; where it
    does not need it, that is a warning.
    """
    _look_for_namesakes(package)

    def get(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(files[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *files})

    return get, names


def _look_for_namesakes(package: str) -> None:
    for name in PACKAGES:
        found = _place_of(name)
        if found in (None, _PROJECT / name):
            continue
        text = (
            f"{found} hides the package {name!r} of fpn-feature-codecs: "
            "rename it, or move it to another folder"
        )
        if PACKAGES.index(name) < PACKAGES.index(package):
            raise ImportError(text)
        _warn(text)


@functools.cache  # once, whichever packages are imported
def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=1)


def _place_of(name: str) -> Path | None:
    """The folder of a package, or the file of a module, that Python finds by a name."""
    module = sys.modules.get(name)
    spec = find_spec(name) if module is None else module.__spec__
    if spec is None:
        return None
    if spec.origin is None:  # a folder without __init__.py
        return Path(next(iter(spec.submodule_search_locations or ()), name)).resolve()
    file = Path(spec.origin).resolve()
    return file.parent if file.name == "__init__.py" else file
