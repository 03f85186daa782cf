"""Open a PyTorch file of anybody's: its tensors are read, and none of its code is run.

Training loops save more than weights: their arguments, numpy's scalars, whole models. torch's
`weights_only` refuses what it does not know. Here an empty dict stands for whatever is neither a
tensor nor a plain value nor a number of numpy's, so that the tensors beside it can be had.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import ConfigError
from configs.given_files import regular
from extract.detector.honest_size import refuse_expanded, refuse_inflating

# What torch.load raises for files that are something else, or cut short.
UNREADABLE = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, RuntimeError, OSError, EOFError,
    LookupError, ValueError, TypeError, AttributeError, AssertionError,
)  # fmt: skip
_UNKNOWN = re.compile(r"Unsupported global: GLOBAL (\S+) was not")
_BLOCKED = re.compile(r"unsupported GLOBAL (\S+) whose module")
_MOST_KINDS = 1000  # of objects that are no weights: no training loop saves as many
# What a file begins with that is no weights at all, and what to do.
_OTHER_KINDS = (
    (b"version https://git-lfs", "is a Git LFS pointer: fetch the file itself with git lfs pull"),
    (b"<", "is a web page or XML: fetch the file itself again"),
)
_NAME = "stands_for"  # where a stand-in keeps the name of what it stands for


def read_pytorch_file(path: Path) -> Any:
    """Return what torch.save wrote, on the CPU, with dicts for objects that are no weights.

    Raises ConfigError, without the file's name, that says why it cannot be read and what to do.
    """
    with regular(path).open("rb") as file:
        head = file.read(64)
    if not head:
        raise ConfigError("is empty: fetch or save it again")
    for beginning, told in _OTHER_KINDS:
        if head.startswith(beginning):
            raise ConfigError(told)
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise ConfigError("is cut short, and so damaged: fetch or save it again")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        raise ConfigError(
            'is a safetensors file: convert it: python -c "import torch; from safetensors.torch '
            f"import load_file; torch.save(load_file('{path}'), 'weights.pth')\""
        )
    try:
        refuse_inflating(path)
        # The form of before is no archive: in memory, no text in it is longer than what there is.
        content = _load(path if head.startswith(b"PK") else io.BytesIO(path.read_bytes()))
        refuse_expanded(content, path.stat().st_size)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    return content


def _load(file: Path | io.BytesIO) -> Any:
    """Load with a stand-in for each kind of object that torch does not know."""
    import torch

    known: list[Any] = [*_numpy_types()]
    names: set[str] = set()
    while True:
        try:
            with _only_safe(known), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they are about is an error's line here
                if isinstance(file, io.BytesIO):
                    file.seek(0)
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = _UNKNOWN.search(str(error))
            if found is None or found[1] in names or len(names) == _MOST_KINDS:
                raise
            names.add(found[1])
            known.append(_stand_in_for(found[1]))


@contextmanager
def _only_safe(known: list[Any]) -> Iterator[None]:
    """Within the block torch takes these for safe, and not what somebody else has declared so."""
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

    before = get_safe_globals()
    clear_safe_globals()
    add_safe_globals(known)
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def _stand_in_for(name: str) -> Callable[..., Any]:
    """Return a class that torch takes for the one of this name, and that makes dicts."""
    module, _, attribute = name.rpartition(".")

    def make(_cls: type, *_: Any, **__: Any) -> OrderedDict[Any, Any]:
        # Of exactly this type: torch fills no other one, and fills it as it would the object.
        made: OrderedDict[Any, Any] = OrderedDict()
        made.__dict__[_NAME] = name
        return made

    return type(attribute, (), {"__module__": module or "builtins", "__new__": make})


def stands_for(value: object) -> str | None:
    """Return the full name of the kind of object that a dict stands for; None: it is no such."""
    name = getattr(value, "__dict__", {}).get(_NAME)
    return name if isinstance(name, str) else None


def _numpy_types() -> Iterator[Callable[..., Any]]:
    """Yield what numpy's numbers and arrays of numbers or texts are made of in a file."""
    yield from (np.ndarray, np.dtype)
    for code in np.typecodes["All"].replace("O", ""):
        yield type(np.dtype(code))
    parts: Any = np.core.multiarray
    # numpy 2 has moved them: files of either version are to be read by either.
    for package in ("numpy.core.multiarray", "numpy._core.multiarray"):
        yield _named(package, "scalar", parts.scalar)
        yield _named(package, "_reconstruct", parts._reconstruct)


def _named(module: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__, call.__qualname__, call.__name__ = module, name, name
    return call


def _unreadable(path: Path, error: Exception) -> ConfigError:
    text = str(error)
    if (blocked := _BLOCKED.search(text)) is not None:
        return ConfigError(
            f"would run code when it is opened ({blocked[1]}), so it is not: fetch it again from "
            "somebody whom you trust"
        )
    if "TorchScript" in text:
        return ConfigError(
            'is a TorchScript archive: save its weights alone: python -c "import torch; '
            f"torch.save(torch.jit.load('{path}').state_dict(), 'weights.pth')\""
        )
    if isinstance(error, pickle.UnpicklingError) and (
        zipfile.is_zipfile(path) or "Only persistent_load of storage" in text
    ):
        return ConfigError(
            f"holds objects that only their own code can read ({first_sentence(error)}): "
            + save_again(path, "m.state_dict() if hasattr(m, 'state_dict') else m['model']")
        )
    return ConfigError(f"not a PyTorch weights file, or damaged: {first_sentence(error)}")


def save_again(path: Path, what: str) -> str:
    """Return the line that saves the weights of a file alone; `what` is Python for them, of m."""
    return (
        'where its code is installed, save the weights alone: python -c "import torch; '
        f"m = torch.load('{path}', map_location='cpu', weights_only=False); "
        f"torch.save({what}, 'weights.pth')\""
    )


def first_sentence(error: BaseException) -> str:
    """Return the beginning of what an exception says, in one line."""
    # Before its own words torch's unpickler says much of what it is and what not to do.
    told = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return told.split("\n", 1)[0].split(". ", 1)[0][:200] or type(error).__name__
