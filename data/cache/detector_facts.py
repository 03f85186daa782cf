"""What a manifest says of the detector that made its features, and what of that is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from configs.schema.section import Positive

# Where weights came from is told, not compared: their hash says whether they are the same.
# `configured` (the sizes as the configuration gave them) and the hash of the weights' file let
# training compare without building the detector.
INFORMATIVE = {"checkpoint", "weights", "classes", "weights_file_sha256", "configured"}

_Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _ConfiguredSizes:
    min_size: Positive | None
    max_size: Positive | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _DetectorFacts:
    """What other code asks a manifest for; `extract.detector.loading` writes it, and more."""

    builder: str
    checkpoint: str | None
    weights: str | None
    weights_sha256: str
    weights_file_sha256: str | None
    configured: _ConfiguredSizes
    min_size: _Number
    max_size: _Number
    resize: tuple[Positive, Positive] | None
    size_divisible: Positive


_FACTS = TypeAdapter(_DetectorFacts)


def detector_facts(raw: dict[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of a detector; ValueError if a fact is missing, or odd."""
    _FACTS.validate_python(raw)
    return raw


def detector_difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say in words the first fact that differs between two detectors' descriptions, or None."""
    for key in sorted((there.keys() | now.keys()) - INFORMATIVE):
        if there.get(key) != now.get(key):
            return f"detector {key}: {_short(there.get(key))} there, {_short(now.get(key))} now"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:20]}...'"
