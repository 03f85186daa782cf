"""streams.json: what a split's files share: the ensemble, and the cache that they came from."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.streams.ensemble import DroppedLevel, Ensemble, parse_levels, plain_levels
from configs.errors import CacheError, ConfigError, PassingError
from configs.plain_json import parse_json
from data.cache.manifest import Manifest
from data.system.atomic_files import write_atomically

FILE_NAME = "streams.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamsIndex:
    """`manifest` is that of the cache that was compressed; `means` are the dropped levels'."""

    ensemble: Ensemble
    ensemble_id: bytes
    means: dict[int, NDArray[Any]]
    """Level -> float32 [C]."""
    manifest: Manifest

    @classmethod
    def load(cls, folder: Path) -> StreamsIndex:
        """Read a folder's index; CacheError if it is missing, damaged or of another format."""
        path = folder / FILE_NAME
        try:
            raw = parse_json(path.read_bytes())
            version = raw["format_version"]
            if version == FORMAT_VERSION:
                return cls._from_json(raw, path)
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
        raise CacheError(
            f"{path}: is of format version {version}, this program reads {FORMAT_VERSION}: "
            "run compress-features again"
        )

    def save(self, folder: Path) -> None:
        """Write streams.json atomically."""
        means = {
            str(level): base64.b64encode(mean.astype("<f4").tobytes()).decode()
            for level, mean in self.means.items()
        }
        raw = {
            "format_version": FORMAT_VERSION,
            "ensemble_id": self.ensemble_id.hex(),
            "cache_fingerprint": self.manifest.fingerprint,
            "levels": plain_levels(self.ensemble, folder),
            "means": means,
            "manifest": parse_json(self.manifest.to_json()),
        }
        write_atomically(folder / FILE_NAME, (json.dumps(raw, indent=1) + "\n").encode())

    def difference_from(self, other: StreamsIndex) -> str | None:
        """Say in words how another index's files would differ from this one's, or None."""
        if self.ensemble_id != other.ensemble_id:
            return f"models: {other.ensemble_id.hex()} there, {self.ensemble_id.hex()} now"
        return self.manifest.difference_from(other.manifest)

    @classmethod
    def _from_json(cls, raw: dict[str, Any], path: Path) -> StreamsIndex:
        manifest = Manifest.from_json(raw["manifest"])
        if manifest.fingerprint != raw["cache_fingerprint"]:
            raise ValueError("its manifest is not the one whose fingerprint it names")
        ensemble = parse_levels(raw["levels"], path)
        ensemble.require_levels(manifest.levels)
        means = {
            int(level): np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
            for level, text in raw["means"].items()
        }
        for level, how in ensemble.levels.items():
            channels = manifest.level(level).num_channels
            if isinstance(how, DroppedLevel) and means[level].shape != (channels,):
                raise ValueError(f"level {level} has {len(means[level])} means")
        if not all(np.isfinite(mean).all() for mean in means.values()):
            raise ValueError("means are not finite")
        return cls(
            ensemble=ensemble,
            ensemble_id=bytes.fromhex(raw["ensemble_id"]),
            means=means,
            manifest=manifest,
        )


def image_path(folder: Path, image_id: int) -> Path:
    """Return the file of an image's levels."""
    return folder / "images" / f"{image_id}.fpn"
