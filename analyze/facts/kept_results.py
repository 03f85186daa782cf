"""Results that are kept between analyses, each under everything that it depends on.

A key is a JSON object: hashes of models and caches, numbers of images, versions of methods. Whoever
changes how something is computed changes the key's `method`, and old results are not found again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from configs.given_files import regular
from configs.plain_json import parse_json
from data.system.atomic_files import remove_leftovers, write_atomically

_LOG = logging.getLogger(__name__)

_SEAL_BYTES = 16  # behind the archive; a damaged one need not be an error to whoever unpacks it
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
            with np.load(io.BytesIO(body), allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
            facts = dict(parse_json(str(arrays.pop(_FACTS))))
            if parse_json(str(arrays.pop(_KEY))) != parse_json(_canonical(key)):
                raise ValueError("it is of another key")
        except FileNotFoundError:
            return None
        except (OSError, LookupError, ValueError, TypeError) as error:
            _LOG.warning("%s: cannot be used (%s): measuring again", path, error)
            return None
        return KeptResult(facts=facts, arrays=arrays)

    def put(
        self, key: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        """Keep a result; a folder that cannot be written is told in a warning, no more."""
        if self._folder is None:
            return
        content = io.BytesIO()
        texts = {_KEY: np.asarray(_canonical(key)), _FACTS: np.asarray(json.dumps(dict(facts)))}
        np.savez_compressed(content, **texts, **dict(arrays))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            body = content.getvalue()
            write_atomically(self._path(key), body + _seal_of(body))
        except OSError as error:
            _LOG.warning("%s: result is not kept (%s)", self._folder, error.strerror)

    def _path(self, key: Mapping[str, Any]) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(_canonical(key).encode()).hexdigest()[:32]}.npz"


def _seal_of(body: bytes) -> bytes:
    return xxhash.xxh3_128_digest(body)


def _canonical(key: Mapping[str, Any]) -> str:
    return json.dumps(dict(key), sort_keys=True, allow_nan=False)
