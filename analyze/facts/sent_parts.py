"""What can be sent for one level, and what a combination of such parts costs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from numpy.typing import NDArray

from analyze.facts.candidates import Candidate
from analyze.facts.results import Measurement
from analyze.facts.whole_pyramids import Pyramid


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
            ways = [
                [_way(each), each.model_sha256, each.code] for each in (self.run, *self.run.chain)
            ]
            return " beside ".join(" ".join(filter(None, words)) for words in ways)
        return "dropped to the known mean" if self.kind == "dropped" else self.kind

    @property
    def label(self) -> str:
        """Return what tables call it."""
        if self.run is None:
            return self.kind
        return f"{self.run.lmbda:.3g}" + (" predicted" if self.run.is_predicted else "")


def _way(run: Candidate) -> str:
    return "predicted" if run.is_predicted else "run"


DERIVED = Part(kind="derived")
DROPPED = Part(kind="dropped")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCost:
    """A run, and what sending its level by it costs on some images."""

    run: Candidate
    bits_per_pixel: float
    """Of the original images."""
    mse: float
    """In the features' own units."""

    @property
    def part(self) -> Part:
        """Return the same as a share of a combination."""
        return Part(kind="run", run=self.run, bits_per_pixel=self.bits_per_pixel)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageCosts:
    """What each of I images costs in one level by one run."""

    bits: NDArray[Any]
    """int64 [I], real ones."""
    squared_error: NDArray[Any]
    """float64 [I], summed over the level's elements."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return name -> array, from which the same costs are made."""
        return {"bits": self.bits, "squared_error": self.squared_error}


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRun:
    """A run, and what its codec reached on its level of the split."""

    run: Candidate
    measurement: Measurement
    of_images: ImageCosts | None = None
    """None: kept by an analysis that noted sums alone."""

    @property
    def cost(self) -> RunCost:
        """Return what sending its level by it costs, on all images."""
        return RunCost(
            run=self.run,
            bits_per_pixel=self.measurement.bits_per_pixel,
            mse=self.measurement.mse,
        )

    @property
    def part(self) -> Part:
        """Return what sending its level by it costs."""
        return self.cost.part


def parts_of(runs: Iterable[MeasuredRun]) -> dict[str, Part]:
    """Return run folder -> what sending its level by it costs."""
    return {str(each.run.folder): each.part for each in runs}


@dataclass(frozen=True, kw_only=True, slots=True)
class Combined:
    """What stands for each level, and what to call it. Levels without a part are as cached."""

    name: str
    parts: dict[int, Part]
    lmbda: float | None = None
    learner: str | None = None
    """As `Pyramid.model`."""
    is_planned: bool = False
    """As of `Pyramid`."""
    seed: int | None = None
    """As of `Pyramid`."""


def sent_pyramids(
    pyramids: Iterable[Pyramid], part_of: Mapping[str, Part], derivable: Collection[int]
) -> list[Combined]:
    """Return each pyramid with all levels sent, and with the derivable ones left to the decoder.

    `part_of` is run folder -> part.
    """
    combined = []
    for pyramid in pyramids:
        parts = {level: part_of[str(run.folder)] for level, run in pyramid.runs.items()}
        derived = sorted(derivable)
        sent = Combined(
            name=pyramid.name, parts=parts, lmbda=pyramid.lmbda, learner=pyramid.model,
            is_planned=pyramid.is_planned, seed=pyramid.seed,
        )  # fmt: skip
        if set(derived) <= parts.keys():
            combined.append(sent)
        if derived:
            names = " and ".join(map(str, derived))
            combined.append(
                replace(
                    sent,
                    name=f"{pyramid.name}, level {names} derived",
                    parts=parts | dict.fromkeys(derived, DERIVED),
                )
            )
    return combined


def one_level_gone(levels: Sequence[int], derivable: Mapping[int, int]) -> list[Combined]:
    """Return, level by level: replaced by its mean, and derived from `derivable[level]`."""
    gone = [
        Combined(name=f"level {level} dropped, the others as cached", parts={level: DROPPED})
        for level in levels
    ]
    return gone + [
        Combined(
            name=f"level {level} derived from level {source}, the others as cached",
            parts={level: DERIVED},
        )
        for level, source in sorted(derivable.items())
    ]
