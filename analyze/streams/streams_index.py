"""streams.json: what a split's files share: the models, and the cache that they came from.

Version 1 names the ensemble that all images are sent by. Version 2 lists the models from which each
image took its own, and says how they were chosen.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.streams.ensemble import (
    CodedLevel,
    DroppedLevel,
    Ensemble,
    parse_levels,
    parse_model,
    plain_levels,
    plain_model,
)
from configs.errors import CacheError, ConfigError, PassingError
from configs.given_files import regular
from configs.plain_json import parse_json
from data.cache.manifest import Manifest
from data.system.atomic_files import write_atomically

FILE_NAME = "streams.json"
FORMAT_VERSION = 1
VERSION_PER_IMAGE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamsIndex:
    """`manifest` is that of the cache that was compressed; `means` are the dropped levels'."""

    ensemble: Ensemble
    ensemble_id: bytes
    means: dict[int, NDArray[Any]]
    """Level -> float32 [C]."""
    manifest: Manifest

    def save(self, folder: Path) -> None:
        """Write streams.json atomically."""
        raw = {
            "format_version": FORMAT_VERSION,
            "ensemble_id": self.ensemble_id.hex(),
            "cache_fingerprint": self.manifest.fingerprint,
            "levels": plain_levels(self.ensemble, folder),
            "means": _plain_means(self.means),
            "manifest": parse_json(self.manifest.to_json()),
        }
        write_atomically(folder / FILE_NAME, (json.dumps(raw, indent=1) + "\n").encode())

    def difference_from(self, other: StreamsIndex | PerImageIndex) -> str | None:
        """Say in words how another index's files would differ from this one's, or None."""
        if not isinstance(other, StreamsIndex):
            return "each image by a choice of its own there, all alike now"
        if self.ensemble_id != other.ensemble_id:
            return f"models: {other.ensemble_id.hex()} there, {self.ensemble_id.hex()} now"
        return self.manifest.difference_from(other.manifest)

    @property
    def runs(self) -> list[Path]:
        """The runs whose models decode the files, where they lay."""
        return self.ensemble.runs

    @property
    def origin(self) -> str:
        """Return what a cache that is decoded from these files says of them."""
        return f"models {self.ensemble_id.hex()} of cache {self.manifest.fingerprint[:16]}"

    @classmethod
    def from_json(cls, raw: dict[str, Any], path: Path) -> StreamsIndex:
        """Inverse of `save`; ValueError and its like say what is wrong."""
        manifest = _manifest(raw)
        ensemble = parse_levels(raw["levels"], path)
        ensemble.require_levels(manifest.levels)
        means = _means(raw)
        for level, how in ensemble.levels.items():
            if isinstance(how, DroppedLevel):
                _require_channels(manifest, level, means[level])
        return cls(
            ensemble=ensemble,
            ensemble_id=bytes.fromhex(raw["ensemble_id"]),
            means=means,
            manifest=manifest,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PerImageIndex:
    """What the files share where each image took its own of the `models`, or none for a level."""

    models: tuple[CodedLevel, ...]
    """The files name them by their place here."""
    models_id: bytes
    means: dict[int, NDArray[Any]]
    """Level -> float32 [C], of all levels: each may be dropped."""
    manifest: Manifest
    chosen: Mapping[str, Any]
    """How images chose, in JSON's values: no decoder needs it."""

    def save(self, folder: Path) -> None:
        """Write streams.json atomically."""
        raw = {
            "format_version": VERSION_PER_IMAGE,
            "models_id": self.models_id.hex(),
            "cache_fingerprint": self.manifest.fingerprint,
            "models": [plain_model(each, folder) for each in self.models],
            "means": _plain_means(self.means),
            "chosen": self.chosen,
            "manifest": parse_json(self.manifest.to_json()),
        }
        write_atomically(folder / FILE_NAME, (json.dumps(raw, indent=1) + "\n").encode())

    def difference_from(self, other: StreamsIndex | PerImageIndex) -> str | None:
        """Say in words how another index's files would differ from this one's, or None."""
        if not isinstance(other, PerImageIndex):
            return "all images alike there, each by a choice of its own now"
        if self.models_id != other.models_id:
            return f"models: {other.models_id.hex()} there, {self.models_id.hex()} now"
        for name in sorted(self.chosen.keys() | other.chosen.keys()):
            there, now = other.chosen.get(name), self.chosen.get(name)
            if there != now:
                is_number = isinstance(there, float) and isinstance(now, float)
                return f"{name}" + (f": {there:g} there, {now:g} now" if is_number else "")
        return self.manifest.difference_from(other.manifest)

    @property
    def runs(self) -> list[Path]:
        """The runs whose models decode the files, where they lay."""
        return [each.run for each in self.models]

    @property
    def origin(self) -> str:
        """Return what a cache that is decoded from these files says of them."""
        chosen = hashlib.sha256(json.dumps(dict(self.chosen), sort_keys=True).encode()).hexdigest()
        return (
            f"models {self.models_id.hex()}, image by image by {chosen[:16]}, "
            f"of cache {self.manifest.fingerprint[:16]}"
        )

    @classmethod
    def from_json(cls, raw: dict[str, Any], path: Path) -> PerImageIndex:
        """Inverse of `save`; ValueError and its like say what is wrong."""
        manifest, means = _manifest(raw), _means(raw)
        for info in manifest.levels:
            _require_channels(manifest, info.index, means[info.index])
        if not isinstance(raw["chosen"], dict) or not isinstance(raw["models"], list):
            raise ValueError("its models, or how they were chosen, are not told")
        return cls(
            models=tuple(parse_model(each, path) for each in raw["models"]),
            models_id=bytes.fromhex(raw["models_id"]),
            means=means,
            manifest=manifest,
            chosen=raw["chosen"],
        )


AnyIndex = StreamsIndex | PerImageIndex


def load_index(folder: Path) -> AnyIndex:
    """Read a folder's index; CacheError if it is missing, damaged or of another format."""
    parsers: dict[Any, Callable[[dict[str, Any], Path], AnyIndex]] = {
        FORMAT_VERSION: StreamsIndex.from_json,
        VERSION_PER_IMAGE: PerImageIndex.from_json,
    }
    path = folder / FILE_NAME
    try:
        raw = parse_json(regular(path).read_bytes())
        version = raw["format_version"]
        if version in parsers:
            return parsers[version](raw, path)
    except FileNotFoundError:
        raise CacheError(
            f"{folder}: holds no compressed features: run compress-features first"
        ) from None
    except OSError as error:
        raise PassingError.reading(path, error) from error
    except (ValueError, LookupError, TypeError, AttributeError, ConfigError) as error:
        raise CacheError(
            f"{path}: is damaged ({error}): run compress-features into another folder"
        ) from error
    known = " and ".join(map(str, parsers))
    raise CacheError(
        f"{path}: is of format version {version}, this program reads {known}: "
        "run compress-features again"
    )


def _manifest(raw: dict[str, Any]) -> Manifest:
    manifest = Manifest.from_json(raw["manifest"])
    if manifest.fingerprint != raw["cache_fingerprint"]:
        raise ValueError("its manifest is not the one whose fingerprint it names")
    return manifest


def _plain_means(means: Mapping[int, NDArray[Any]]) -> dict[str, str]:
    return {
        str(level): base64.b64encode(mean.astype("<f4").tobytes()).decode()
        for level, mean in means.items()
    }


def _means(raw: dict[str, Any]) -> dict[int, NDArray[Any]]:
    means = {
        int(level): np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
        for level, text in raw["means"].items()
    }
    if not all(np.isfinite(mean).all() for mean in means.values()):
        raise ValueError("means are not finite")
    return means


def _require_channels(manifest: Manifest, level: int, mean: NDArray[Any]) -> None:
    if mean.shape != (manifest.level(level).num_channels,):
        raise ValueError(f"level {level} has {len(mean)} means")


def image_path(folder: Path, image_id: int) -> Path:
    """Return the file of an image's levels."""
    return folder / "images" / f"{image_id}.fpn"
