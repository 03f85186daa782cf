"""All settings of the three stages, typed, with their defaults. A YAML file fills this and no more.

Paths are relative to the working directory, as on the command line. Unknown keys are refused by
`configs.config_files`, which turns every validation error into one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, ValidationError, field_serializer, model_validator

from configs.schema.data import (
    DEFAULT_BUILDER,
    SCENES_BUILDER,
    SCENES_WEIGHTS,
    CacheConfig,
    DataConfig,
    DetectorConfig,
)
from configs.schema.section import NonNegative, SchemaSection
from configs.schema.training import (
    DetectorTrainingConfig,
    ModelConfig,
    TrainingConfig,
    ValidationConfig,
)


class LevelConfig(SchemaSection):
    """What one level has of its own; only the keys that are named count."""

    model: ModelConfig = ModelConfig()
    """`options` replace the common ones as a whole, and go with the common `name`."""
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()

    def given(self) -> dict[str, dict[str, Any]]:
        """Return section -> key -> value of what is named, as YAML spells it."""
        given = self.model_dump(exclude_unset=True, by_alias=True)
        if "name" in given.get("model", {}):
            given["model"].setdefault("options", {})
        return given


class Config(SchemaSection):
    """All settings. Only `data` and `detector` have to be named for a user's own data."""

    data: DataConfig = DataConfig()
    detector: DetectorConfig = DetectorConfig()
    cache: CacheConfig = CacheConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()
    detector_training: DetectorTrainingConfig = DetectorTrainingConfig()
    levels: dict[NonNegative, LevelConfig] = Field(default={})
    """What single levels have of their own, over the common sections (not for --level random)."""

    @model_validator(mode="before")
    @classmethod
    def _levels_by_number(cls, raw: Any) -> Any:
        """Take a level's number as text too, as JSON writes it; options go with the common name."""
        levels = raw.get("levels") if isinstance(raw, dict) else None
        if not isinstance(levels, dict):
            return raw
        numbered: dict[Any, Any] = {}
        for key, sections in levels.items():
            level = int(key) if isinstance(key, str) and key.isdecimal() else key
            if level in numbered:
                raise ValueError(f"levels.{level} is given twice: remove one")
            model = sections.get("model") if isinstance(sections, dict) else None
            if isinstance(model, dict) and "options" in model:
                common = raw.get("model")
                name = common.get("name") if isinstance(common, dict) else None
                named = model if name is None else {"name": name, **model}
                sections = {**sections, "model": named}
            numbered[level] = sections
        return {**raw, "levels": numbered}

    @field_serializer("levels")
    def _only_what_is_named(self, levels: dict[int, LevelConfig]) -> dict[int, Any]:
        return {level: each.given() for level, each in levels.items()}

    def of_level(self, level: int, levels: Iterable[int]) -> Config:
        """Return the settings of one of `levels`, its own over the common ones.

        Its `levels` then name, for each of them, all that any names: so a level's settings tell
        those of the others too, and the result asked for another level gives that one's.
        """
        if not self.levels:
            return self
        named = {
            (section, key)
            for each in self.levels.values()
            for section, keys in each.given().items()
            for key in keys
        }
        settled = {each: self._sections(each) for each in {*levels, *self.levels, level}}
        return self.model_copy(
            update={
                **{name: getattr(settled[level], name) for name in LevelConfig.model_fields},
                "levels": {each: _only(settled[each], named) for each in sorted(settled)},
            }
        )

    def _sections(self, level: int) -> LevelConfig:
        """Return the sections of a level with every key, checked."""
        own = self.levels[level].given() if level in self.levels else {}
        return LevelConfig.model_validate(
            {
                name: _over(getattr(self, name).model_dump(by_alias=True), own.get(name, {}))
                for name in LevelConfig.model_fields
            }
        )

    @model_validator(mode="after")
    def _dtypes_are_of_splits(self) -> Config:
        known, dtype = self.data.splits, self.cache.dtype
        unknown = [] if isinstance(dtype, str) else sorted(set(dtype) - set(known))
        if unknown:
            raise ValueError(
                f"cache.dtype: data.splits has {', '.join(known)}, no {unknown[0]!r}: correct "
                "the name, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _levels_fit_what_is_common(self) -> Config:
        for level in self.levels:
            try:
                self._sections(level)
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(str(part) for part in ("levels", level, *first["loc"]))
                raise ValueError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
        return self

    @model_validator(mode="before")
    @classmethod
    def _detector_fits_data(cls, raw: Any) -> Any:
        """Fill in the detector that goes with the data: ours for scenes, ResNet-50 otherwise."""
        if not isinstance(raw, dict):
            return raw
        data, detector = raw.get("data", {}), raw.get("detector", {})
        if not isinstance(data, dict) or not isinstance(detector, dict):
            return raw
        if data.get("format", "scenes") == "scenes":
            usual: dict[str, Any] = {"builder": SCENES_BUILDER, "min_size": 192, "max_size": 256}
            if detector.get("builder", SCENES_BUILDER) != SCENES_BUILDER:
                usual = {}
            elif detector.get("checkpoint") is None and detector.get("weights") is None:
                usual["checkpoint"] = SCENES_WEIGHTS
        else:
            usual = {"builder": DEFAULT_BUILDER}
        given = {key: value for key, value in detector.items() if value is not None}
        return {**raw, "detector": usual | given}


def _over(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section with a level's own keys in it; the keys of a section inside it likewise."""
    nested = {
        key: {**(common[key] or {}), **value}
        for key, value in own.items()
        if isinstance(value, dict) and key != "options"
    }
    return {**common, **own, **nested}


def _only(sections: LevelConfig, named: Iterable[tuple[str, str]]) -> LevelConfig:
    everything = sections.model_dump(by_alias=True)
    kept: dict[str, dict[str, Any]] = {}
    for section, key in sorted(named):
        kept.setdefault(section, {})[key] = everything[section][key]
    return LevelConfig.model_validate(kept)
