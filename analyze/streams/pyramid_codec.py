"""All levels of an image to one file and back, by an ensemble's loaded models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.maps.map_source import as_batch
from analyze.streams.ensemble import CodedLevel, DerivedLevel, Ensemble
from analyze.streams.image_file import ID_BYTES, ImageFile, Kind, Section, pack, unpack
from analyze.streams.level_file import decode_section, encode_section
from configs.errors import CacheError, ConfigError
from train.codecs.level_codec import LevelCodec
from train.runs.loaded_models import LoadedModels


def ensemble_id(ensemble: Ensemble, means: Mapping[int, NDArray[Any]]) -> bytes:
    """Return 8 bytes that differ between ensembles that decode differently.

    They are the first of the SHA-256 of a line for each level: its number, and the model's hash,
    the level that it is derived from, or the hash of the `means` (float32 [C]) that replace it.
    """
    lines = []
    for level, how in sorted(ensemble.levels.items()):
        if isinstance(how, CodedLevel):
            lines.append(f"{level} coded {how.model_sha256}\n")
        elif isinstance(how, DerivedLevel):
            lines.append(f"{level} derived {how.source}\n")
        else:
            content = means[level].astype("<f4").tobytes()
            lines.append(f"{level} dropped {hashlib.sha256(content).hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).digest()[:ID_BYTES]


class PyramidCodec:
    """An ensemble's models, and the means of its dropped levels, ready to code.

    Raises ConfigError if a run is missing, or its best model is not the one that the ensemble
    names.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        means: Mapping[int, NDArray[Any]],
        models: LoadedModels | None = None,
    ) -> None:
        """Take the codecs of `models`, on its device; without, they are read, for the CPU."""
        models = models or LoadedModels()
        self.ensemble = ensemble
        self.ensemble_id = ensemble_id(ensemble, means)
        self._means = means
        self.device = models.device
        self._codecs = {
            level: _load(how, level, models)
            for level, how in ensemble.levels.items()
            if isinstance(how, CodedLevel)
        }

    def encode(
        self, maps: Mapping[int, NDArray[Any]], *, image_id: int, image_hw: tuple[int, int]
    ) -> bytes:
        """Return the file of one image's maps, float [H, W, C] of every level."""
        sections = tuple(self._section(level, maps[level]) for level in self.ensemble.levels)
        return pack(
            ImageFile(
                ensemble_id=self.ensemble_id,
                image_id=image_id,
                image_hw=image_hw,
                sections=sections,
            )
        )

    def decode(
        self,
        data: bytes,
        source: str = "image file",
        *,
        sizes_hw: Mapping[int, tuple[int, int]] | None = None,
    ) -> dict[int, NDArray[Any]]:
        """Return every level's map, float32 [H, W, C]; that of a coded level is forward's x_hat.

        Raises CacheError if the file is damaged, of another ensemble, or, where `sizes_hw` says
        what to expect, of maps of other sizes.
        """
        image = unpack(data, source)
        self.require_own(image, source)
        found = {section.level: section.size_hw for section in image.sections}
        if sizes_hw is not None and found != dict(sizes_hw):
            raise CacheError(f"{source}: holds maps of other sizes than the index says: {found}")
        maps: dict[int, NDArray[Any]] = {}
        for section in image.sections:
            maps[section.level] = self._restored(section, maps, source)
        return maps

    def require_own(self, image: ImageFile, source: str) -> None:
        """Raise CacheError unless this ensemble wrote the file."""
        if image.ensemble_id != self.ensemble_id:
            raise CacheError(
                f"{source}: was made by the models {image.ensemble_id.hex()}, these are "
                f"{self.ensemble_id.hex()}: decode it with the checkpoints that encoded it"
            )
        held = {section.level: section.kind for section in image.sections}
        if held != {level: _kind(how) for level, how in self.ensemble.levels.items()}:
            raise CacheError(
                f"{source}: is damaged (its levels are not those of its models): "
                "compress the features again"
            )

    def _section(self, level: int, values: NDArray[Any]) -> Section:
        how = self.ensemble.levels[level]
        if isinstance(how, CodedLevel):
            maps = as_batch(values).to(self.device)
            return encode_section(self._codecs[level], maps, level=level)
        size_hw = (int(values.shape[0]), int(values.shape[1]))
        source = how.source if isinstance(how, DerivedLevel) else 0
        return Section(level=level, kind=_kind(how), size_hw=size_hw, source=source)

    def _restored(
        self, section: Section, maps: Mapping[int, NDArray[Any]], source: str
    ) -> NDArray[Any]:
        how = self.ensemble.levels[section.level]
        if isinstance(how, DerivedLevel):
            if section.source != how.source:
                raise CacheError(f"{source}: is damaged (level {section.level} has another source)")
            return np.ascontiguousarray(maps[how.source][::2, ::2])
        if not isinstance(how, CodedLevel):
            mean = self._means[section.level].astype(np.float32)
            return np.broadcast_to(mean, (*section.size_hw, len(mean)))
        return decode_section(self._codecs[section.level], section, source)


def _load(how: CodedLevel, level: int, models: LoadedModels) -> LevelCodec:
    info = models.info(how.run)
    if info.model_sha256 != how.model_sha256:
        raise ConfigError(
            f"{how.run}: its best model is {info.model_sha256[:12]}, the ensemble names "
            f"{how.model_sha256[:12]} for level {level}: name the run that holds it"
        )
    return models.codec(how.run, level=level)


def _kind(how: object) -> Kind:
    if isinstance(how, CodedLevel):
        return Kind.CODED
    return Kind.DERIVED if isinstance(how, DerivedLevel) else Kind.DROPPED
