"""What all sections of the settings are, and the numbers that they hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(strict=True, gt=0)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
NonNegative = Annotated[int, Field(strict=True, ge=0)]
SideFraction = Annotated[float, Field(strict=True, gt=0, le=1)]


class SchemaSection(BaseModel):
    """Base of all sections: immutable, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
