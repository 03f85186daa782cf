"""Per-channel statistics of a level, exact under merging, and the cast's own error."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import CacheError, PassingError
from configs.given_files import regular
from configs.plain_json import parse_json
from data.cache.manifest_parts import LevelInfo

_MOST_VALUES = 2**62  # of a channel, as of a bucket
_OF_BYTES = ("channel_squared_error", "num_clipped")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelStatistics:
    """Of the stored values, float64 [C] each; `count` is values per channel."""

    count: int
    mean: NDArray[Any]
    m2: NDArray[Any]
    """Sum of squared differences from the mean."""
    minimum: NDArray[Any]
    maximum: NDArray[Any]
    cast_squared_error: float
    """Sum over all values of (stored - computed)^2."""
    cast_max_error: float
    summed_on: str = "cpu"
    """The kinds of device on which they were summed up, joined by "+"; a GPU sums in float64."""
    channel_squared_error: NDArray[Any] | None = None
    """`cast_squared_error` of each channel; None: not told, as in float16 and float32."""
    num_clipped: NDArray[Any] | None = None
    """How many values lay beyond what the channel's 8-bit code reaches; None as above."""

    @property
    def variance(self) -> NDArray[Any]:
        """Population variance, float64 [C]."""
        return self.m2 / self.count

    @property
    def cast_mse(self) -> float:
        """Mean squared error of the cast to the stored dtype."""
        return self.cast_squared_error / (self.count * len(self.mean))

    def merged_with(self, other: ChannelStatistics) -> ChannelStatistics:
        """Combine two disjoint parts (Chan, Golub and LeVeque 1979, equation 2.1).

        For those of units: verification merges them again, and expects the same bits.
        """
        count = self.count + other.count
        delta = other.mean - self.mean
        return ChannelStatistics(
            count=count,
            mean=self.mean + delta * (other.count / count),
            m2=self.m2 + other.m2 + delta**2 * (self.count * other.count / count),
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            cast_squared_error=self.cast_squared_error + other.cast_squared_error,
            cast_max_error=max(self.cast_max_error, other.cast_max_error),
            summed_on=_devices([self, other]),
            channel_squared_error=_sum([self.channel_squared_error, other.channel_squared_error]),
            num_clipped=_sum([self.num_clipped, other.num_clipped]),
        )

    @classmethod
    def merged(cls, parts: Sequence[ChannelStatistics]) -> ChannelStatistics:
        """Combine any number of disjoint parts at once: many times faster than two by two."""
        counts = np.array([[part.count] for part in parts])
        means = np.array([part.mean for part in parts])
        count = int(counts.sum())
        # Differences from the first mean: far from zero, sums of the means themselves lose digits.
        mean = means[0] + ((means - means[0]) * counts).sum(axis=0) / count
        between = ((means - mean) ** 2 * counts).sum(axis=0)
        return cls(
            count=count,
            mean=mean,
            m2=np.sum([part.m2 for part in parts], axis=0) + between,
            minimum=np.min([part.minimum for part in parts], axis=0),
            maximum=np.max([part.maximum for part in parts], axis=0),
            cast_squared_error=sum(part.cast_squared_error for part in parts),
            cast_max_error=max(part.cast_max_error for part in parts),
            summed_on=_devices(parts),
            channel_squared_error=_sum([part.channel_squared_error for part in parts]),
            num_clipped=_sum([part.num_clipped for part in parts]),
        )

    def to_json(self) -> str:
        """Return JSON text; arrays are base64 of little-endian float64, so no bit is lost."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.summed_on == "cpu":  # as it always was when nobody wrote where
            del values["summed_on"]
        return json.dumps({name: _encode(x) for name, x in values.items() if x is not None})

    @classmethod
    def from_json(cls, text: str) -> ChannelStatistics:
        """Inverse of `to_json`; raises CacheError if the text is damaged."""
        try:
            raw = parse_json(text)
            statistics = cls(
                count=int(raw["count"]),
                mean=_decode(raw["mean"]),
                m2=_decode(raw["m2"]),
                minimum=_decode(raw["minimum"]),
                maximum=_decode(raw["maximum"]),
                cast_squared_error=float(raw["cast_squared_error"]),
                cast_max_error=float(raw["cast_max_error"]),
                summed_on=str(raw.get("summed_on", "cpu")),
                **{name: _decode(raw[name]) for name in _OF_BYTES if name in raw},
            )
            statistics._require_sound()
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise CacheError(f"the statistics are damaged: {error}") from error
        return statistics

    def _require_sound(self) -> None:
        told = (self.channel_squared_error, self.num_clipped)
        arrays = [self.mean, self.m2, self.minimum, self.maximum]
        arrays += [array for array in told if array is not None]
        if not 1 <= self.count < _MOST_VALUES or len({len(array) for array in arrays}) != 1:
            raise ValueError(f"they are of {self.count} values of {[*map(len, arrays)]} channels")
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("they are not finite")
        if (self.m2 < 0).any() or (self.minimum > self.maximum).any():
            raise ValueError("variances are negative, or maxima less than minima")


def _devices(parts: Sequence[ChannelStatistics]) -> str:
    return "+".join(sorted({one for part in parts for one in part.summed_on.split("+")}))


def _sum(parts: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    known = [part for part in parts if part is not None]
    return np.sum(known, axis=0) if known else None


def _encode(value: object) -> object:
    if isinstance(value, np.ndarray):
        return base64.b64encode(value.astype("<f8").tobytes()).decode()
    return value


def _decode(text: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")


def statistics_path(cache: Path, level: int) -> Path:
    """Return the file of a level's merged statistics; it exists once the cache is complete."""
    return cache / f"statistics_level_{level}.json"


def read_statistics(cache: Path, level: LevelInfo) -> ChannelStatistics:
    """Return a level's merged statistics.

    Raises CacheError if the extraction has not finished, or they are damaged; PassingError if the
    system refuses them.
    """
    path = statistics_path(cache, level.index)
    try:
        text = regular(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CacheError(
            f"{cache}: the extraction has not finished: "
            f"run extract-features --split {cache.name} again, it goes on where it stopped"
        ) from None
    except OSError as error:
        raise PassingError.reading(path, error) from error
    try:
        statistics = ChannelStatistics.from_json(text)
        if (found := len(statistics.mean)) != level.num_channels:
            raise CacheError(f"the statistics are of {found} channels, not {level.num_channels}")
    except CacheError as error:
        raise CacheError(f"{path}: {error}: remove it and run extract-features again") from error
    return statistics
