"""What any images of a split tell, from what each of them costs and from its detections."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.allocation.choice import Evidence, MapDrop, MeasuredSplit
from analyze.facts.kept_results import Kept
from analyze.facts.sent_parts import RunCost
from analyze.measure.split import Split
from analyze.streams.unsent_levels import overhead_of
from configs.errors import ConfigError
from data.system.threads import per_image

_METHOD = "errors of dropped levels 1"


class ImageEvidence:
    """A measured split, of which any images' figures are summed up; no bit is coded again."""

    def __init__(self, measured: MeasuredSplit, dropped: Mapping[int, NDArray[Any]]) -> None:
        """Take runs with `of_images`, and what `dropped_errors` returns."""
        self._measured = measured
        self._dropped = dropped
        readers, images = measured.split.readers, range(measured.split.num_images)
        self._elements = {
            level: reader.shapes[: len(images)].prod(axis=1) for level, reader in readers.items()
        }
        samples = measured.split.manifest.samples[: len(images)]
        self._pixels = np.array([each.height * each.width for each in samples], dtype=np.int64)
        self._ids = [each.image_id for each in samples]

    def choosing(self, images: Sequence[int]) -> Evidence:
        """Return what these images tell; ConfigError if they hold no box that counts."""
        detection = self._measured.detection
        if detection is None:
            return self._of(images, None)
        drop = partial(detection.drop_on, image_ids=self.ids(images))
        if math.isnan(drop({})):
            raise ConfigError(
                f"the {len(images)} images that choose hold no box that counts: name fewer folds"
            )
        return self._of(images, drop)

    def held_out(self, images: Sequence[int]) -> Evidence:
        """Return rates and errors of these images, without detection."""
        return self._of(images, None)

    def ids(self, images: Sequence[int]) -> list[int]:
        """Return the images' ids."""
        return [self._ids[index] for index in images]

    def num_pixels(self, images: Sequence[int]) -> int:
        """Return the pixels of the original images."""
        return int(self._pixels[list(images)].sum())

    def num_elements(self, images: Sequence[int]) -> int:
        """Return the values of all levels."""
        return sum(int(each[list(images)].sum()) for each in self._elements.values())

    def _of(self, images: Sequence[int], drop: MapDrop | None) -> Evidence:
        measured, places = self._measured, list(images)
        elements = {level: int(each[places].sum()) for level, each in self._elements.items()}
        runs = []
        for each in measured.runs:
            assert each.of_images is not None, "measured image by image"
            error = float(each.of_images.squared_error[places].sum())
            runs.append(
                RunCost(
                    run=each.run,
                    bits_per_pixel=int(each.of_images.bits[places].sum()) / self.num_pixels(places),
                    mse=error / elements[each.run.level],
                )
            )
        split = measured.split
        return Evidence(
            sources={level: reader.info.derived_from for level, reader in split.readers.items()},
            runs=tuple(runs),
            overhead=overhead_of(split.manifest, places),
            shares={level: each / sum(elements.values()) for level, each in elements.items()},
            dropped_mse={
                level: float(each[places].sum()) / elements[level]
                for level, each in self._dropped.items()
            },
            drop=drop,
        )


def dropped_errors(split: Split, kept: Kept, device: str) -> dict[int, NDArray[Any]]:
    """Return level -> squared error of each image, float64 [I], with its mean in its place.

    All maps are read once, unless `kept` has the errors.
    """
    return {level: _errors(split, level, kept, device) for level in split.readers}


def _errors(split: Split, level: int, kept: Kept, device: str) -> NDArray[Any]:
    reader, mean = split.readers[level], split.means.of(level)
    key = {
        "method": _METHOD,
        "level": level,
        "cache": split.cache.content_id,
        "mean": hashlib.sha256(mean.tobytes()).hexdigest(),
        "images": split.num_images,
    }
    if (found := kept.get(key)) is not None:
        return found.arrays["squared_error"]

    def error(index: int) -> float:
        return float(np.square(reader.sample(index) - mean, dtype=np.float64).sum())

    errors = np.array(list(per_image(error, range(split.num_images), device)), dtype=np.float64)
    kept.put(key, {}, {"squared_error": errors})
    return errors
