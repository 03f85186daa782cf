"""Allocation by cross-fitting: what some images choose is measured on the others.

Each fold of the images is sent by what the images of all other folds chose. The detections of all
folds together are those of one data set, of which no image had a say in how it was sent: the mAP is
of them, not a mean over folds. (In statistics this is cross-fitting, Chernozhukov et al. 2018; in
machine learning, cross-validation with pooled predictions.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyze.allocation.choice import MeasuredSplit, choose, chosen_parts
from analyze.allocation.image_evidence import ImageEvidence
from analyze.allocation.lagrangian import Allocated, Option
from analyze.allocation.search import Allocation, Target
from analyze.facts.results import ChosenBy, Combination
from analyze.facts.sent_parts import Part, parts_of
from analyze.measure.detection_study import Aps
from extract.accuracy.bootstrap import Accuracy


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """One part of the images, sent by what all others chose."""

    allocation: Allocation
    """Its figures are of the images that chose."""
    images: tuple[int, ...]
    """Ids of those that were held out."""
    bits_per_pixel: float
    """Of the images that were held out."""
    mse: float
    """Of these, over the elements of all levels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossFit:
    """All images, each sent as those of the other folds chose."""

    folds: tuple[Fold, ...]
    combination: Combination
    """Bits and detections of all folds, pooled."""
    mse: float
    """Over all elements of all levels."""
    optimism: float | None = None
    """mAP of the choice that was made by all images and measured on them, less this one's."""


def cross_fit(
    measured: MeasuredSplit,
    evidence: ImageEvidence,
    folds: Sequence[Sequence[int]],
    target: Target,
    name: str,
) -> CrossFit:
    """Choose for each fold by all others; `folds` hold each image's place once.

    Raises ConfigError if the images that choose for a fold hold no box that counts.
    """
    parts = parts_of(measured.runs)
    found, choices = [], []
    for held in folds:
        others = sorted(place for fold in folds if fold is not held for place in fold)
        allocation = choose(evidence.choosing(others), target)
        there = evidence.held_out(held)
        sent = _options_of(allocation.combination, there.options())
        found.append(
            Fold(
                allocation=allocation,
                images=tuple(evidence.ids(held)),
                bits_per_pixel=there.overhead.shared + sum(each.bits_per_pixel for each in sent),
                mse=sum(there.shares[each.level] * each.mse for each in sent),
            )
        )
        choices.append((chosen_parts(allocation.combination, parts), evidence.ids(held)))
    pixels = [evidence.num_pixels(held) for held in folds]
    elements = [evidence.num_elements(held) for held in folds]
    accuracy: Accuracy | None = None
    class_ap: Aps = ()
    if measured.detection is not None:
        accuracy, class_ap = measured.detection.pooled(choices)
    num_images = measured.split.num_images
    split = measured.split.manifest.split
    return CrossFit(
        folds=tuple(found),
        combination=Combination(
            name=name,
            parts=_parts_in_words([parts for parts, _ in choices]),
            bits_per_pixel=_mean([each.bits_per_pixel for each in found], pixels),
            accuracy=accuracy,
            class_ap=class_ap,
            chosen_by=ChosenBy(
                split=split, num_images=num_images, measured_on=split, num_measured=num_images,
                num_folds=len(folds),
            ),
        ),
        mse=_mean([each.mse for each in found], elements),
    )  # fmt: skip


def _options_of(choice: Allocated, options: Sequence[Option]) -> list[Option]:
    """Return the same options with other images' figures."""
    by_name = {(each.level, each.name): each for each in options}
    return [by_name[each.level, each.name] for each in choice.options]


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _parts_in_words(choices: Sequence[dict[int, Part]]) -> dict[int, str]:
    """Return level -> the run folder, or kind, that all folds chose; else that they differ."""
    words: dict[int, str] = {}
    for level in choices[0]:
        each = {
            part.kind if part.run is None else str(part.run.folder)
            for part in (parts[level] for parts in choices)
        }
        words[level] = each.pop() if len(each) == 1 else "differs by fold"
    return words
