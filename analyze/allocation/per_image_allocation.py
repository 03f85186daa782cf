"""What images reach that choose themselves, within the bits of the target or the allocation.

An image chooses by its own bytes and errors alone, and needs no boxes: there is nothing to
cross-fit in its choice. What was measured with boxes are the weights of errors, a number for each
way, and, unless the target is one of bits, the allocation whose bits the slope is to meet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.allocation.choice import MeasuredSplit
from analyze.allocation.weighed_ways import WeighedWays
from analyze.facts.results import ChosenBy, Combination, Found
from analyze.facts.sent_parts import DERIVED, DROPPED, Part, parts_of
from analyze.image_choice.chain_choice import Choices, WayCosts, choose, costs_of, slope_for
from analyze.measure.detection_study import Aps
from analyze.measure.split import Split
from analyze.streams.ensemble import DerivedLevel
from analyze.streams.unsent_levels import Overhead, overhead_of
from extract.accuracy.bootstrap import Accuracy

_MODEL_BYTES = 1
"""By which an image's file names a level's model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WayTaken:
    """How many images send a level in one way."""

    level: int
    sent_as: str
    num_images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PerImageFinding:
    """Images that choose themselves, and all alike, at one slope."""

    slope: float
    """Distortion by kilobyte of an image's file."""
    distortion: str
    combination: Combination
    """Each image by its own choice."""
    mse: float
    """Of it, over all elements of all levels."""
    alike: Combination
    """All images by the one choice that is best for all of them at the same slope."""
    alike_mse: float
    taken: tuple[WayTaken, ...]
    """Those that some image takes, by level."""


def per_image_allocation(
    measured: MeasuredSplit,
    weighed: WeighedWays,
    dropped: Mapping[int, NDArray[Any]],
    bits_per_pixel: float,
    weights_of: str,
) -> Found[PerImageFinding | None]:
    """Return what images reach that choose themselves within so many bits; or what is missing.

    `measured` has runs with `of_images`, `dropped` is what `dropped_errors` returns; `weights_of`
    is the split that the weights were measured on.
    """
    ways, split = weighed.ways.each, measured.split
    costs = _costs(measured, weighed, dropped)
    num_pixels, shared = split.num_pixels, measured.overhead.shared
    # Whole bytes, but for the rounding of what they were divided by.
    most_bytes = math.floor((bits_per_pixel - shared) * num_pixels / 8 + 1e-3)
    slope = slope_for(ways, costs, most_bytes)
    if slope is None:
        return Found(
            None,
            (f"no choice by image: none takes at most {bits_per_pixel:.4g} bits per pixel",),
        )
    own = choose(ways, costs, slope)
    (one,) = choose(ways, costs.summed, slope).ways
    alike = costs_of(ways, costs, [one] * split.num_images)
    parts = parts_of(measured.runs)
    figures = _Figures(measured, weighed, parts)
    by_seed = "" if measured.seed is None else f", seed {measured.seed}"
    chosen_by = ChosenBy(
        split=weights_of, num_images=split.num_images, measured_on=split.manifest.split,
        num_measured=split.num_images, is_per_image=True,
    )  # fmt: skip

    def combination(name: str, choices: Choices, model_bytes: int) -> Combination:
        accuracy, class_ap = figures.accuracy(choices)
        num_bytes = int(choices.num_bytes.sum()) - model_bytes
        return Combination(
            name=name + by_seed,
            parts=figures.words(choices),
            bits_per_pixel=shared + 8 * num_bytes / num_pixels,
            accuracy=accuracy,
            class_ap=class_ap,
            chosen_by=chosen_by,
            seed=measured.seed,
            over_seeds=name if by_seed else "",
        )

    # One choice for all is an ensemble, whose files name no models.
    num_models = sum(weighed.runs[place] is not None for place in one)
    return Found(
        PerImageFinding(
            slope=slope,
            distortion=weighed.ways.distortion,
            combination=combination(
                f"chosen image by image within {bits_per_pixel:.4g} bits per pixel", own, 0
            ),
            mse=figures.mse(own, costs),
            alike=combination(
                "one choice for all images at the same slope", alike,
                split.num_images * _MODEL_BYTES * num_models,
            ),
            alike_mse=figures.mse(alike, costs),
            taken=figures.taken(own),
        )
    )  # fmt: skip


def _costs(
    measured: MeasuredSplit, weighed: WeighedWays, dropped: Mapping[int, NDArray[Any]]
) -> WayCosts:
    """Return what `WayMeter` would measure, from what is known: nothing is coded."""
    split = measured.split
    manifest, images = split.manifest, range(split.num_images)
    heads = [overhead_of(manifest, [image]) for image in images]
    pixels = [manifest.samples[image].height * manifest.samples[image].width for image in images]
    of_runs = {str(each.run.folder): each.of_images for each in measured.runs}
    elements = _elements(split)
    num_bytes, mse = [], []
    for way, run in zip(weighed.ways.each, weighed.runs, strict=True):
        if run is not None:
            found = of_runs[run]
            assert found is not None, "measured image by image"
            num_bytes.append(found.bits // 8 + _MODEL_BYTES)
            mse.append(found.squared_error / elements[way.level])
            continue
        is_derived = isinstance(way.how, DerivedLevel)

        def bits(head: Overhead, level: int = way.level, derived: bool = is_derived) -> float:
            return (head.derived if derived else head.dropped)[level]

        num_bytes.append(
            np.array([round(bits(head) * num / 8) for head, num in zip(heads, pixels, strict=True)])
        )
        mse.append(
            np.zeros(len(images)) if is_derived else dropped[way.level] / elements[way.level]
        )
    return WayCosts(num_bytes=np.stack(num_bytes, 1).astype(np.int64), mse=np.stack(mse, 1))


def _elements(split: Split) -> dict[int, NDArray[Any]]:
    """Return level -> values of each image's map, int64 [I]."""
    return {
        level: reader.shapes[: split.num_images].prod(axis=1)
        for level, reader in split.readers.items()
    }


class _Figures:
    """What choices of a measured split reach."""

    def __init__(
        self, measured: MeasuredSplit, weighed: WeighedWays, parts: Mapping[str, Part]
    ) -> None:
        self._measured = measured
        self._ways = weighed.ways.each
        self._sent: list[Part] = [
            parts[run]
            if run is not None
            else (DERIVED if isinstance(way.how, DerivedLevel) else DROPPED)
            for way, run in zip(self._ways, weighed.runs, strict=True)
        ]

    def accuracy(self, choices: Choices) -> tuple[Accuracy | None, Aps]:
        """Return the mAP of all images' detections together."""
        detection = self._measured.detection
        if detection is None:
            return None, ()
        images: dict[tuple[int, ...], list[int]] = {}
        for image, places in enumerate(choices.ways):
            images.setdefault(places, []).append(image)
        return detection.each_image(
            [(self._parts(places), found) for places, found in images.items()]
        )

    def mse(self, choices: Choices, costs: WayCosts) -> float:
        """Return the MSE over all elements of all levels."""
        elements = _elements(self._measured.split)
        error = 0.0
        for image, places in enumerate(choices.ways):
            by_level = {self._ways[place].level: place for place in places}
            for place in places:
                way = self._ways[place]
                mse = costs.mse[image, by_level[way.error_level]]
                error += mse * float(elements[way.level][image])
        return error / float(sum(each.sum() for each in elements.values()))

    def taken(self, choices: Choices) -> tuple[WayTaken, ...]:
        """Return each way that some image takes."""
        counts = Counter(place for places in choices.ways for place in places)
        return tuple(
            WayTaken(level=self._ways[place].level, sent_as=self._text(place), num_images=count)
            for place, count in sorted(
                counts.items(), key=lambda each: (self._ways[each[0]].level, -each[1])
            )
        )

    def words(self, choices: Choices) -> dict[int, str]:
        """Return level -> run folder or kind, if all images agree; else that they differ."""
        taken: dict[int, set[str]] = {}
        for places in choices.ways:
            for place in places:
                taken.setdefault(self._ways[place].level, set()).add(self._word(place))
        return {
            level: found.pop() if len(found) == 1 else "differs by image"
            for level, found in sorted(taken.items())
        }

    def _parts(self, places: Sequence[int]) -> dict[int, Part]:
        return {self._ways[place].level: self._sent[place] for place in places}

    def _word(self, place: int) -> str:
        part = self._sent[place]
        return part.kind if part.run is None else str(part.run.folder)

    def _text(self, place: int) -> str:
        part = self._sent[place]
        return part.label if part.run is None else f"lambda {part.label}, {part.run.model}"
