"""Results that are kept between analyses, each under everything that it depends on.

A key is a JSON object: hashes of models and caches, numbers of images, versions of methods. Whoever
changes how something is computed changes the key's `method`, and old results are not found again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from configs.given_files import regular
from configs.plain_json import parse_json
from data.system.atomic_files import remove_leftovers, write_atomically

_LOG = logging.getLogger(__name__)

_SEAL_BYTES = 16  # behind the archive; a damaged one need not be an error to whoever unpacks it
# What zipfile and numpy raise for archives that somebody has forged: theirs is the right checksum.
_UNREADABLE = (
    OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, EOFError,
    RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
_MOST_TIMES = 100  # as large as its file; zeros may be packed a thousand times as small
_npy: Any = np.lib.format
_KEY, _FACTS = "key.json", "facts.json"  # names that no array may have


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptResult:
    """Plain values that JSON can hold, and arrays."""

    facts: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class Kept:
    """A folder of results, one file each; None as the folder keeps nothing."""

    def __init__(self, folder: Path | str | None) -> None:
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            remove_leftovers(self._folder)

    @property
    def folder(self) -> Path | None:
        """Return the folder, for another process that is to keep its results there, too."""
        return self._folder

    def get(self, key: Mapping[str, Any]) -> KeptResult | None:
        """Return what was kept under `key`; None if there is nothing, or nothing that is whole."""
        if self._folder is None:
            return None
        path = self._path(key)
        try:
            body, seal = (data := regular(path).read_bytes())[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
            if seal != _seal_of(body):
                raise ValueError("its checksum differs")
            arrays = _unpacked(body)
            facts = dict(parse_json(str(arrays.pop(_FACTS))))
            if parse_json(str(arrays.pop(_KEY))) != parse_json(_canonical(key)):
                raise ValueError("it is of another key")
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            _LOG.warning("%s: cannot be used (%s): measuring again", path, error)
            return None
        return KeptResult(facts=facts, arrays=arrays)

    def put(
        self, key: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        """Keep a result; a folder that cannot be written is told in a warning, no more."""
        if self._folder is None:
            return
        texts = {_KEY: np.asarray(_canonical(key)), _FACTS: np.asarray(json.dumps(dict(facts)))}
        body = _packed({**texts, **arrays})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(key), body + _seal_of(body))
        except OSError as error:
            _LOG.warning("%s: result is not kept (%s)", self._folder, error.strerror)

    def _path(self, key: Mapping[str, Any]) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(_canonical(key).encode()).hexdigest()[:32]}.npz"


def _packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an archive of arrays, compressed unless `_unpacked` would not believe it."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    if _swells(content):
        content = io.BytesIO()
        np.savez(content, **arrays)
    return content.getvalue()


def _unpacked(body: bytes) -> dict[str, NDArray[Any]]:
    """Return an archive's arrays; ValueError if they would take far more room than the archive."""
    if _swells(io.BytesIO(body)):
        raise ValueError("it says that it holds far more than it has bytes")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                _require_array(file, entry.file_size)
    with np.load(io.BytesIO(body), allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def _swells(content: io.BytesIO) -> bool:
    with zipfile.ZipFile(content) as archive:
        num_bytes = sum(entry.file_size for entry in archive.infolist())
    return num_bytes > _MOST_TIMES * len(content.getvalue())


def _require_array(file: IO[bytes], num_bytes: int) -> None:
    """ValueError unless the array whose file begins here has values of at most these bytes."""
    if (version := _npy.read_magic(file)) != (1, 0):
        raise ValueError(f"it holds an array of version {version}")
    shape, _, dtype = _npy.read_array_header_1_0(file)
    if math.prod(shape) * dtype.itemsize > num_bytes:
        raise ValueError(f"an array in it is of {shape}, and has {num_bytes} bytes")


def _seal_of(body: bytes) -> bytes:
    return xxhash.xxh3_128_digest(body)


def _canonical(key: Mapping[str, Any]) -> str:
    return json.dumps(dict(key), sort_keys=True, allow_nan=False)
