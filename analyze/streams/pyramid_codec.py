"""All levels of an image to one file and back, by an ensemble's loaded models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.file_format.image_file import ID_BYTES, ImageFile, pack, unpack
from analyze.file_format.section_heads import Kind, Section
from analyze.maps.map_source import as_batch
from analyze.streams.contexts import context_levels, levels_beside
from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    DroppedLevel,
    Ensemble,
    EnsembleLevel,
    FusedLevel,
    ModelLevel,
    PredictedLevel,
)
from analyze.streams.fused_levels import FusedLevels, fused_levels
from analyze.streams.level_file import (
    SeenLevel,
    decode_sections,
    encode_section,
    encode_sections,
    predicted_section,
)
from configs.errors import CacheError, ConfigError
from train.codecs.layers.context_path import Context
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
        elif isinstance(how, PredictedLevel):
            lines.append(f"{level} predicted {how.model_sha256}\n")
        elif isinstance(how, FusedLevel):
            lines.append(f"{level} fused {how.model_sha256}\n")
        elif isinstance(how, DerivedLevel):
            lines.append(f"{level} derived {how.source}\n")
        else:
            content = means[level].astype("<f4").tobytes()
            lines.append(f"{level} dropped {hashlib.sha256(content).hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).digest()[:ID_BYTES]


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedModels:
    """Models from which each image takes its own: their files say which, by number."""

    identity: bytes
    """Of the whole list; the files carry it in the place of an ensemble's id."""
    numbers: Mapping[str, int]
    """SHA-256 of a model -> its place in the list."""
    codecs: Mapping[tuple[str, int], LevelCodec]
    """(SHA-256, level) -> the codec of a level that the model serves, ready to code."""


class PyramidCodec:
    """An ensemble's models, and the means of its dropped levels, ready to code.

    It works from the coarsest level to the finest. What a contextual model sees when it encodes is
    what the decoder will have of the coarser level, of the latents that its section was made of.

    Raises ConfigError if a run is missing, its best model is not the one that the ensemble names,
    a contextual model does not stand beside one that it was trained beside, or a fused one does not
    code all of its levels.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        means: Mapping[int, NDArray[Any]],
        models: LoadedModels | None = None,
        *,
        listed: ListedModels | None = None,
    ) -> None:
        """Take the codecs of `models`, on its device; without, they are read, for the CPU.

        With `listed` the ensemble is one image's own, of these models, which are ready already.
        """
        models = models or LoadedModels()
        self.ensemble = ensemble
        self.ensemble_id = ensemble_id(ensemble, means) if listed is None else listed.identity
        self._listed = listed
        self._means = means
        self.device = models.device
        for level, how in ensemble.levels.items():
            if isinstance(how, ModelLevel):
                _require_model(how, level, models)
        self._fused = fused_levels(ensemble, models)
        self._codecs = {
            level: loaded_codec(how, level, models)
            if listed is None
            else listed.codecs[how.model_sha256, level]
            for level, how in ensemble.levels.items()
            if isinstance(how, CodedLevel | PredictedLevel)
        }
        self.contexts = context_levels(ensemble, models)
        """Level -> the coarser level that its contextual model sees."""

    def encode(
        self, maps: Mapping[int, NDArray[Any]], *, image_id: int, image_hw: tuple[int, int]
    ) -> bytes:
        """Return the file of one image's maps, float [H, W, C] of every level."""
        there: dict[int, Context] = {}
        fused: dict[int, Section] = {}
        for each in self._fused:
            fused |= each.sections(maps)
        sections = [
            fused[level]
            if level in fused
            else self._named(self._section(level, maps[level], there))
            for level in sorted(self.ensemble.levels, reverse=True)
        ]
        return pack(
            ImageFile(
                ensemble_id=self.ensemble_id,
                image_id=image_id,
                image_hw=image_hw,
                sections=tuple(reversed(sections)),
                is_per_image=self._listed is not None,
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

        Of contextual models that is their output beside the decoded coarser level. Raises
        CacheError if the file is damaged, of another ensemble, or, where `sizes_hw` says what to
        expect, of maps of other sizes.
        """
        image = unpack(data, source)
        self.require_own(image, source)
        return self.decode_unpacked(image, source, sizes_hw=sizes_hw)

    def decode_unpacked(
        self, image: ImageFile, source: str, *, sizes_hw: Mapping[int, tuple[int, int]] | None
    ) -> dict[int, NDArray[Any]]:
        """Return what `decode` does, of a file that this ensemble wrote."""
        found = {section.level: section.size_hw for section in image.sections}
        if sizes_hw is not None and found != dict(sizes_hw):
            raise CacheError(f"{source}: holds maps of other sizes than the index says: {found}")
        maps: dict[int, NDArray[Any]] = {}
        there: dict[int, Context] = {}
        for each in self._fused:
            maps |= each.decoded([one for one in image.sections if _is_of(one, each)], source)
        for section in reversed(image.sections):
            if section.kind.has_model:
                maps[section.level] = self._decoded(section, there, source)
        for section in image.sections:
            if section.kind in (Kind.DERIVED, Kind.DROPPED):
                maps[section.level] = self._restored(section, maps, source)
        return dict(sorted(maps.items()))

    def require_own(self, image: ImageFile, source: str) -> None:
        """Raise CacheError unless this ensemble wrote the file."""
        if image.ensemble_id != self.ensemble_id:
            raise CacheError(
                f"{source}: was made by the models {image.ensemble_id.hex()}, these are "
                f"{self.ensemble_id.hex()}: decode it with the checkpoints that encoded it"
            )
        held = {section.level: (section.kind, section.context) for section in image.sections}
        if held != {
            level: (_kind(how), self.contexts.get(level))
            for level, how in self.ensemble.levels.items()
        }:
            raise CacheError(
                f"{source}: is damaged (its levels are not those of its models): "
                "compress the features again"
            )

    def _section(self, level: int, values: NDArray[Any], there: dict[int, Context]) -> Section:
        """Return what is sent of a level; where a finer one sees it, it is added to `there`."""
        how = self.ensemble.levels[level]
        size_hw = (int(values.shape[0]), int(values.shape[1]))
        if not isinstance(how, ModelLevel):
            source = how.source if isinstance(how, DerivedLevel) else 0
            return Section(level=level, kind=_kind(how), size_hw=size_hw, source=source)
        codec, seen = self._codecs[level], self.contexts.get(level)
        is_seen = level in self.contexts.values()
        if isinstance(how, PredictedLevel):
            assert seen is not None, "contexts are known"
            section = predicted_section(codec, size_hw, level=level, context_level=seen)
            if is_seen:
                there[level] = decode_sections(codec, [section], "encoder", there[seen])
            return section
        beside = None if seen is None else SeenLevel(seen, there[seen])
        maps = as_batch(values).to(self.device)
        if not is_seen:
            return encode_sections(codec, maps, level=level, beside=beside)[0]
        section, there[level] = encode_section(codec, maps, level=level, beside=beside)
        return section

    def _named(self, section: Section) -> Section:
        """Return a section that says which of the listed models is its own, if there is a list."""
        how = self.ensemble.levels[section.level]
        if self._listed is None or not isinstance(how, ModelLevel):
            return section
        return replace(section, model=self._listed.numbers[how.model_sha256])

    def _decoded(self, section: Section, there: dict[int, Context], source: str) -> NDArray[Any]:
        """Return a level that a model decodes; one that a finer one sees is added to `there`."""
        level = section.level
        context = None if section.context is None else there[section.context]
        try:
            found = decode_sections(self._codecs[level], [section], source, context)
        except CacheError as error:
            if lost := levels_beside(level, self.contexts):
                names = " and ".join(map(str, lost))
                raise CacheError(
                    f"{error} (with it goes what is decoded beside it: {names})"
                ) from error
            raise
        if level in self.contexts.values():
            there[level] = found
        values: NDArray[Any] = found.maps[0].permute(1, 2, 0).cpu().numpy()
        return values

    def _restored(
        self, section: Section, maps: Mapping[int, NDArray[Any]], source: str
    ) -> NDArray[Any]:
        """Return a level that needs no model."""
        how = self.ensemble.levels[section.level]
        if isinstance(how, DerivedLevel):
            if section.source != how.source:
                raise CacheError(f"{source}: is damaged (level {section.level} has another source)")
            return np.ascontiguousarray(maps[how.source][::2, ::2])
        mean = self._means[section.level].astype(np.float32)
        return np.broadcast_to(mean, (*section.size_hw, len(mean)))


def _is_of(section: Section, fused: FusedLevels) -> bool:
    return section.kind is Kind.FUSED and section.source == fused.levels[0]


def loaded_codec(how: ModelLevel, level: int, models: LoadedModels) -> LevelCodec:
    """Return a level's codec, ready to code.

    ConfigError if the run holds another model, or one that does not code the level by itself.
    """
    _require_model(how, level, models)
    if (info := models.info(how.run)).is_fused:
        raise ConfigError(
            f"level {level}: {how.run} codes the levels {list(info.levels)} in one, and none of "
            "them by itself: name a run of this level"
        )
    return models.codec(how.run, level=level)


def _require_model(how: ModelLevel, level: int, models: LoadedModels) -> None:
    info = models.info(how.run)
    if info.model_sha256 != how.model_sha256:
        raise ConfigError(
            f"{how.run}: its best model is {info.model_sha256[:12]}, the ensemble names "
            f"{how.model_sha256[:12]} for level {level}: name the run that holds it"
        )


def _kind(how: EnsembleLevel) -> Kind:
    return {
        CodedLevel: Kind.CODED,
        PredictedLevel: Kind.PREDICTED,
        FusedLevel: Kind.FUSED,
        DerivedLevel: Kind.DERIVED,
        DroppedLevel: Kind.DROPPED,
    }[type(how)]
