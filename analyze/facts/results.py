"""What an analysis found: plain values, from which every table, plot and file is made."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from extract.accuracy.bootstrap import Accuracy

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Found(Generic[Result]):
    """A result, and what it lacks: a line for each thing that could not be had, and what to do."""

    result: Result
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelFacts:
    """One level of the cache. `resolution_hw` is that of the bucket with the most images."""

    level: int
    key: str
    stride_px: int
    num_channels: int
    resolution_hw: tuple[int, int]
    share: float
    """Share of all elements (values) of the split that lie in this level, 0..1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One run's codec over the split. Rates are total bits over total positions or pixels."""

    run: str
    lmbda: float
    num_parameters: int
    mse: float
    """Mean squared error in the features' own units, decoded from the real bitstreams."""
    value_range: float
    """Largest minus smallest value of the level in the cache."""
    psnr_db: float
    """10 log10(value_range^2 / mse)."""
    estimated_bpp: float
    """Bits per feature position from the likelihoods."""
    real_bpp: float
    """Bits per feature position that the level takes in the bitstreams, its head included."""
    payload_bpp: float
    """The same without heads."""
    bits_per_pixel: float
    """Real bits per pixel of the original images."""
    encode_ms: float
    """Mean per image, map in memory to bitstream."""
    decode_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelRow:
    """One line of the table: a level, and what one of its runs reached (None: not trained)."""

    facts: LevelFacts
    measurement: Measurement | None
    alone: Accuracy | None
    """Detection with this level compressed and the others as cached."""
    learner: str = ""
    """Model or distortion, where there are runs of several: they make curves of their own."""
    model_sha256: str = ""
    """Of the weights; empty without a run."""
    seed: int | None = None
    """Where there are runs that differ in it only."""
    beside: str = ""
    """Beside which coarser run it is measured, where runs of the level differ in it only."""
    beside_run: str = ""
    """Folder, or name below it, of the run of the coarser level that it sees; empty: it sees none.
    """

    @property
    def curve(self) -> str:
        """Return what tells its curve from others of its level; empty where there is one."""
        return ", ".join(filter(None, (self.learner, self.beside)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenBy:
    """Which images chose a combination, and on which its figures were measured."""

    split: str
    num_images: int
    """Of the split, that chose; cross-fitted, each fold by those of all others."""
    measured_on: str
    num_measured: int
    num_folds: int = 0
    """Cross-fitted if more than 0: no image chose what was measured on it."""
    is_per_image: bool = False
    """Each image chose for itself, without boxes; `split` is that of which the weights are."""

    @property
    def is_same(self) -> bool:
        """Whether images chose what was measured on them, so that the figures flatter."""
        return not self.num_folds and self.split == self.measured_on

    @property
    def text(self) -> str:
        """Return the same in words."""
        if self.is_per_image:
            return f"each image for itself, by weights of errors that {self.split} tells"
        if self.num_folds:
            return f"cross-fitted over {self.num_folds} folds"
        if self.is_same:
            return f"chosen and measured on the same {self.num_measured} images"
        return f"chosen on {self.split}, measured on {self.measured_on}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Combination:
    """All levels together: what stands for each, what that costs, what detection makes of it."""

    name: str
    parts: dict[int, str]
    """Level -> run folder, `derived`, `dropped`, or an anchor's rate point; absent: as cached."""
    bits_per_pixel: float | None
    """All bits of the files per pixel of the original images; None where a level is as cached."""
    accuracy: Accuracy | None
    lmbda: float | None = None
    """If all its runs have this one lambda."""
    learner: str = ""
    """As of `LevelRow`, if all its runs are of one, or of one configuration."""
    is_planned: bool = False
    """One configuration has these runs: a point of their learner's curve."""
    class_ap: tuple[float, ...] = ()
    """AP (0.50:0.95) of each of the result's `classes`."""
    chosen_by: ChosenBy | None = None
    """None where nothing was chosen by what was measured."""
    seed: int | None = None
    """Of its runs, where there are runs that differ in it only."""
    over_seeds: str = ""
    """The name without the seed, which those of the other seeds share."""
    approach: str = ""
    """How its models share the levels: see `analyze.facts.approaches`."""
    mse: float | None = None
    """Of whole pyramids, over the values of all levels, in the features' own units.

    A derived level counts with its source's; None where it is of no run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFacts:
    """One class of the data set that is evaluated."""

    name: str
    num_boxes: int
    """Of the images that are analysed, ignored ones not counted."""
    is_known: bool
    """The detector has a label for it: else its AP is 0, and counts in mAP as that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisResult:
    """Everything that a report shows."""

    dataset: str
    split: str
    detector: str
    num_images: int
    rows: tuple[LevelRow, ...]
    original: Accuracy | None
    """Detection from the cached features as they are."""
    combinations: tuple[Combination, ...]
    missing: tuple[str, ...] = ()
    """What could not be measured, each with what to do about it."""
    next_step: str = ""
    """What to type next, where runs, boxes or the split's cache are missing."""
    cache_fingerprint: str = ""
    """Of the split's cache."""
    classes: tuple[ClassFacts, ...] = ()
    """Those of which boxes count, in the data set's order; empty where no mAP can be had."""
    class_ap: tuple[float, ...] = ()
    """AP of each of them from the original features."""
    only_classes: tuple[str, ...] = ()
    """If not empty, the only ones that were to be evaluated."""
    num_pixels: int = 0
    """Of the original images."""
    num_positions: int = 0
    """Of the maps of all levels."""
    num_input_pixels: int = 0
    """Of the same images as the detector resizes them, before padding; 0: not known."""


def psnr_db(mse: float, value_range: float) -> float:
    """Return 10 log10(value_range^2 / mse) in dB; infinite for mse 0."""
    if mse == 0:
        return math.inf
    return 10 * math.log10(value_range**2 / mse) if value_range > 0 else -math.inf


def measured(result: AnalysisResult) -> list[tuple[LevelRow, Measurement]]:
    """Return the rows that have a run, with it."""
    return [(row, row.measurement) for row in result.rows if row.measurement is not None]


def next_step(
    split: str,
    options: str,
    *,
    known_splits: Collection[str],
    has_cache: bool,
    has_runs: bool,
    no_detection: Sequence[str],
) -> str:
    """Return the command, or what to write first, that an analysis of the split lacks most.

    Empty where it lacks nothing. `options` are what commands need to reach the same data,
    `known_splits` those of the configuration, `no_detection` lines "what: why: what to do".
    """
    if not has_cache:
        if split not in known_splits:
            return f"analyze-levels --split train{options}"
        return f"extract-features --split {split}{options}"
    if not has_runs:
        return f"train-level --level all{options}"
    return no_detection[0].rpartition(": ")[2] if no_detection else ""
