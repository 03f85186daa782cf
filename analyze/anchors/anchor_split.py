"""The split on which anchors are measured, and what they are fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from analyze.detection.split_evaluator import SplitEvaluator
from analyze.maps.replacements import Derivation
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import Manifest
from data.reading.level_reader import LevelReader
from extract.accuracy.bootstrap import Accuracy


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorSplit:
    """What anchors are measured on."""

    train_cache: CacheFolder | Path
    """Of the same detector; anchors are fitted to it."""
    readers: Mapping[int, LevelReader]
    """Level -> reader of the evaluated split."""
    num_images: int
    evaluator: SplitEvaluator | None
    """None: rates and errors alone."""
    as_cached: Callable[[], Accuracy] | None = None
    """What detection on the cached levels gives, if somebody knows: what is lossless gives that."""
    derivations: Mapping[int, Derivation]
    """Levels that are not sent. Without an evaluator, those that the cache says are subsampled."""
    device: str = "cpu"

    @property
    def manifest(self) -> Manifest:
        """Return the evaluated split's manifest."""
        return next(iter(self.readers.values())).manifest

    @property
    def num_pixels(self) -> int:
        """Return the pixels of the original images."""
        return sum(each.height * each.width for each in self.manifest.samples[: self.num_images])

    @property
    def derived(self) -> tuple[int, ...]:
        """Return the levels that are not sent."""
        return tuple(
            sorted(
                self.derivations
                if self.evaluator
                else self.manifest.derived_levels & self.readers.keys()
            )
        )
