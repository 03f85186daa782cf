"""All settings of the three stages, typed, with their defaults. A YAML file fills this and no more.

Paths are relative to the working directory, as on the command line. Unknown keys are refused by
`configs.config_files`, which turns every validation error into one line.
"""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from configs.schema.data import (
    DEFAULT_BUILDER,
    SCENES_BUILDER,
    SCENES_WEIGHTS,
    CacheConfig,
    DataConfig,
    DetectorConfig,
)
from configs.schema.section import SchemaSection
from configs.schema.training import (
    DetectorTrainingConfig,
    ModelConfig,
    TrainingConfig,
    ValidationConfig,
)


class Config(SchemaSection):
    """All settings. Only `data` and `detector` have to be named for a user's own data."""

    data: DataConfig = DataConfig()
    detector: DetectorConfig = DetectorConfig()
    cache: CacheConfig = CacheConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    validation: ValidationConfig = ValidationConfig()
    detector_training: DetectorTrainingConfig = DetectorTrainingConfig()

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
