"""What all sections of the settings are, and the numbers and names that they hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticKnownError

from configs.schema.folder_names import path_component

Positive = Annotated[int, Field(strict=True, gt=0)]
PositiveFloat = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, lt=1)]
NonNegative = Annotated[int, Field(strict=True, ge=0)]
SideFraction = Annotated[float, Field(strict=True, gt=0, le=1)]
PathComponent = Annotated[str, AfterValidator(path_component)]


class SchemaSection(BaseModel):
    """Base of all sections: immutable, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def first_problem(error: ValidationError) -> str:
    """Return, in one line, the first thing that is wrong, and where."""
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def ours_or_own(*ours: str) -> AfterValidator:
    """Return what checks a name: one of `ours`, or the user's own code, `package.module:name`."""

    def checked(name: str) -> str:
        if name in ours or ":" in name:
            return name
        # As a Literal says it, so that the nearest of the names in quotes is suggested.
        listed = ", ".join(f"'{each}'" for each in ours)
        expected = f"{listed} or your own package.module:name"
        raise PydanticKnownError("literal_error", {"expected": expected})

    return AfterValidator(checked)
