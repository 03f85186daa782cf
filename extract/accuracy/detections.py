"""What a detector found in the images of a split, as arrays that can be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """The boxes of I images, D in all; those of image i are `starts[i]` to `starts[i + 1]`."""

    image_ids: NDArray[Any]
    """int64 [I]."""
    starts: NDArray[Any]
    """int64 [I + 1]."""
    boxes: NDArray[Any]
    """float32 [D, 4], xyxy in px of the original image."""
    labels: NDArray[Any]
    """int64 [D], as the detector numbers its classes."""
    scores: NDArray[Any]
    """float32 [D], 0..1."""

    @classmethod
    def of(cls, results: Mapping[int, Mapping[str, Tensor]]) -> Detections:
        """Join what a torchvision detector returns: image id -> boxes, labels, scores, on CPU."""
        found = list(results.values())
        boxes = [np.asarray(each["boxes"], dtype=np.float32).reshape(-1, 4) for each in found]
        labels = [np.asarray(each["labels"], dtype=np.int64) for each in found]
        scores = [np.asarray(each["scores"], dtype=np.float32) for each in found]
        return cls(
            image_ids=np.array(list(results), dtype=np.int64),
            starts=np.cumsum([0, *map(len, labels)], dtype=np.int64),
            boxes=np.concatenate([np.zeros((0, 4), dtype=np.float32), *boxes]),
            labels=np.concatenate([np.zeros(0, dtype=np.int64), *labels]),
            scores=np.concatenate([np.zeros(0, dtype=np.float32), *scores]),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return name -> array, from which `from_arrays` makes the same detections."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Detections:
        """Inverse of `arrays`; names that are not of it are left alone."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def rows(self, position: int) -> slice:
        """Return where the boxes of `image_ids[position]` lie in the arrays."""
        return slice(int(self.starts[position]), int(self.starts[position + 1]))
