"""Files of images that choose their models themselves, out of one list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from analyze.file_format.image_file import ID_BYTES, ImageFile, unpack
from analyze.file_format.section_heads import Kind, Section
from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    DroppedLevel,
    Ensemble,
    EnsembleLevel,
    PredictedLevel,
)
from analyze.streams.pyramid_codec import ListedModels, PyramidCodec, loaded_codec
from configs.errors import CacheError, ConfigError
from train.runs.loaded_models import LoadedModels


def models_id(models: Sequence[CodedLevel], means: Mapping[int, NDArray[Any]]) -> bytes:
    """Return 8 bytes that differ between lists of models that decode a file differently.

    They are the first of the SHA-256 of a line for each model, its number and its hash, and one for
    each level: that it may be dropped, with the hash of the `means` (float32 [C]) that replace it.
    """
    lines = [f"model {number} {each.model_sha256}\n" for number, each in enumerate(models)]
    for level, mean in sorted(means.items()):
        content = hashlib.sha256(mean.astype("<f4").tobytes()).hexdigest()
        lines.append(f"{level} dropped {content}\n")
    return hashlib.sha256("".join(lines).encode()).digest()[:ID_BYTES]


class PerImageCodec:
    """A list of models, each read once, and the means of all levels, ready to code."""

    def __init__(
        self,
        models: Sequence[CodedLevel],
        means: Mapping[int, NDArray[Any]],
        loaded: LoadedModels | None = None,
    ) -> None:
        """Take codecs of `loaded` for all levels of `means` that a model serves.

        Raises ConfigError if a run is missing, or its best model is not the one that is listed.
        """
        self._models = models
        self._means = means
        self._loaded = loaded or LoadedModels()
        self.device = self._loaded.device
        self._listed = ListedModels(
            identity=models_id(models, means),
            numbers={each.model_sha256: number for number, each in enumerate(models)},
            codecs={
                (each.model_sha256, level): loaded_codec(each, level, self._loaded)
                for each in models
                for level in sorted(means.keys() & set(self._loaded.info(each.run).levels))
            },
        )

    @property
    def listed(self) -> ListedModels:
        """What all images' codecs share."""
        return self._listed

    def of(self, ensemble: Ensemble) -> PyramidCodec:
        """Return what codes an image by a choice of its own; ConfigError as of PyramidCodec."""
        return PyramidCodec(ensemble, self._means, self._loaded, listed=self._listed)

    def decode(
        self,
        data: bytes,
        source: str = "image file",
        *,
        sizes_hw: Mapping[int, tuple[int, int]] | None = None,
    ) -> dict[int, NDArray[Any]]:
        """Return every level's map, float32 [H, W, C], as PyramidCodec; CacheError as there."""
        image = unpack(data, source)
        self.require_own(image, source)
        codec = self._codec_of(image, source)
        return codec.decode_unpacked(image, source, sizes_hw=sizes_hw)

    def require_own(self, image: ImageFile, source: str) -> None:
        """Raise CacheError unless the file is of an image that chose out of this list."""
        if not image.is_per_image or image.ensemble_id != self._listed.identity:
            raise CacheError(
                f"{source}: was made by the models {image.ensemble_id.hex()}, these are "
                f"{self._listed.identity.hex()}: decode it with the index that lies beside it"
            )

    def _codec_of(self, image: ImageFile, source: str) -> PyramidCodec:
        """Return the codec of an image's own choice; CacheError if these models cannot be it."""
        try:
            ensemble = Ensemble({each.level: self._way(each) for each in image.sections})
            codec = self.of(ensemble)
            codec.require_own(image, source)
        except (ConfigError, LookupError) as error:
            raise CacheError(
                f"{source}: is damaged (its levels are not those of its models: {error}): "
                "compress the features again"
            ) from error
        return codec

    def _way(self, section: Section) -> EnsembleLevel:
        """Return how a level is sent; LookupError for a number that is not in the list."""
        if section.kind is Kind.DERIVED:
            return DerivedLevel(source=section.source)
        if section.model is None:
            if section.level not in self._means:
                raise LookupError(f"there is no level {section.level}")
            return DroppedLevel()
        chosen = self._models[section.model]
        if (chosen.model_sha256, section.level) not in self._listed.codecs:
            raise LookupError(f"model {section.model} serves no level {section.level}")
        way = CodedLevel if section.kind is Kind.CODED else PredictedLevel
        return way(run=chosen.run, model_sha256=chosen.model_sha256, lmbda=chosen.lmbda)
