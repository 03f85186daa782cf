"""What can be sent for one level, and what a combination of such parts costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analyze.facts.candidates import Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One level's share of a combination. A level without a part is as cached."""

    kind: Literal["run", "derived", "dropped"]
    """derived: computed from another level for no bits; dropped: its mean, for no bits."""
    bits_per_pixel: float = 0.0
    """Of a run: real bits per pixel of the original images."""
    run: Candidate | None = None

    @property
    def identity(self) -> str:
        """Return what differs between parts that decode differently."""
        if self.run is not None:
            return f"run {self.run.model_sha256}"
        return "dropped to the known mean" if self.kind == "dropped" else self.kind

    @property
    def label(self) -> str:
        """Return what tables call it."""
        return self.kind if self.run is None else f"{self.run.lmbda:.3g}"


DERIVED = Part(kind="derived")
DROPPED = Part(kind="dropped")
