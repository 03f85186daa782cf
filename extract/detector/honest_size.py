"""PyTorch files that make no more memory than they are large: few bytes can claim a huge tensor."""

from __future__ import annotations

import io
import mmap
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_TOO_MUCH = "it says that it holds more than it has bytes"
# Of what torch lets a pickle call, this alone fills as much memory as a number says.
_FILLED = re.compile(rb"c(builtins|__builtin__)\nbytearray\n")


def refuse_inflating(file: Path | bytes) -> None:
    """Raise ValueError for a file that would take more memory to read than it has bytes.

    torch packs nothing in its archives, and saves no `bytearray`.
    """
    if isinstance(file, bytes):
        _refuse(io.BytesIO(file), file)
    elif file.stat().st_size:  # an empty file cannot be mapped
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ) as data:
            _refuse(handle, data)


def _refuse(file: BinaryIO, data: bytes | mmap.mmap) -> None:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        is_packed = any(each.compress_type != zipfile.ZIP_STORED for each in entries)
        if is_packed or sum(each.file_size for each in entries) > len(data):
            raise ValueError(_TOO_MUCH)
    if _FILLED.search(data):
        raise ValueError("it asks for memory by a number")


def refuse_expanded(content: Any, num_bytes: int) -> None:
    """Raise ValueError if tensors and arrays in a file's content have more values than its bytes.

    As expanded ones do, of which all values are one: whoever copies them makes room for each.
    """
    if sum(_num_values(content)) > num_bytes:
        raise ValueError(_TOO_MUCH)


def _num_values(content: Any) -> Iterator[int]:
    """Yield the number of values of all tensors and arrays, however deep they lie."""
    import torch

    seen: set[int] = set()
    left = [content]
    while left:
        each = left.pop()
        if isinstance(each, torch.Tensor | np.ndarray):
            yield each.numel() if isinstance(each, torch.Tensor) else each.size
        elif isinstance(each, dict | list | tuple | set) and id(each) not in seen:
            seen.add(id(each))
            left.extend(each.values() if isinstance(each, dict) else each)
