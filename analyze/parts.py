"""What can be sent for one level, and what a combination of such parts costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from analyze.runs import Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One level's share of a combination. A level without a part is as cached."""

    kind: Literal["run", "derived", "dropped"]
    """derived: computed from another level for no bits; dropped: its mean, for no bits."""
    bits_per_pixel: float = 0.0
    """Real bits per pixel of the original images."""
    run: Candidate | None = None

    @property
    def identity(self) -> str:
        """Return what differs between parts that decode differently."""
        return self.kind if self.run is None else f"run {self.run.model_sha256}"

    @property
    def label(self) -> str:
        """Return what tables call it."""
        return self.kind if self.run is None else f"{self.run.lmbda:.3g}"


DERIVED = Part(kind="derived")
DROPPED = Part(kind="dropped")


def total_bits_per_pixel(parts: Mapping[int, Part]) -> float:
    """Return what all parts cost together, in bits per pixel of the original images."""
    return sum(part.bits_per_pixel for part in parts.values())
