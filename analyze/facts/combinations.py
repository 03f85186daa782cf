"""Which combinations of parts an analysis runs detection on. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from analyze.facts.candidates import Pyramid
from analyze.facts.sent_parts import DERIVED, DROPPED, Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Combined:
    """What stands for each level, and what to call it. Levels without a part are as cached."""

    name: str
    parts: dict[int, Part]
    lmbda: float | None = None


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
        if set(derived) <= parts.keys():
            combined.append(Combined(name=pyramid.name, parts=parts, lmbda=pyramid.lmbda))
        if derived:
            names = " and ".join(map(str, derived))
            combined.append(
                Combined(
                    name=f"{pyramid.name}, level {names} derived",
                    parts=parts | dict.fromkeys(derived, DERIVED),
                    lmbda=pyramid.lmbda,
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
