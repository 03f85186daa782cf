"""Measure runs over a split, or take what an earlier analysis measured."""

from __future__ import annotations

import dataclasses
import logging

from analyze.facts.candidates import Candidate
from analyze.facts.kept_results import Kept
from analyze.facts.results import Measurement
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.level_rate_distortion import measure_level
from analyze.measure.split import Split
from train.runs.checkpoint import BEST_NAME, load_codec

_LOG = logging.getLogger(__name__)

_METHOD = "level rate and distortion 4"


class LevelStudy:
    """Measures each run once, whoever asks, and leaves its decoded maps where detection finds them.

    `kept` is asked first; what it holds was measured on the same weights and the same cache.
    """

    def __init__(self, split: Split, decoded: DecodedLevels, kept: Kept, device: str) -> None:
        self._split = split
        self._decoded = decoded
        self._kept = kept
        self._device = device

    def measure(self, run: Candidate) -> Measurement:
        """Return a run's rate and distortion over the split, from real bitstreams."""
        key = {
            "method": _METHOD,
            "model": run.model_sha256,
            "level": run.level,
            "cache": self._split.readers[run.level].content_id,
            "images": self._split.num_images,
            "device": self._device,
        }
        name = f"level {run.level}, lambda {run.lmbda:.3g}"
        if (kept := self._kept.get(key)) is not None:
            _LOG.info("%s: measured before", name)
            return Measurement(**{**kept.facts, "run": str(run.folder)})
        measurement = self._measure(run, name)
        self._kept.put(key, dataclasses.asdict(measurement), {})
        _LOG.info(
            "%s: MSE %.4g, estimated %.4g and real %.4g bits per position",
            name, measurement.mse, measurement.estimated_bpp, measurement.real_bpp,
        )  # fmt: skip
        return measurement

    def _measure(self, run: Candidate, name: str) -> Measurement:
        codec, info = load_codec(run.folder / BEST_NAME, self._device)
        return measure_level(
            codec,
            info,
            self._split.readers[run.level],
            range(self._split.num_images),
            self._decoded.new(run),
            str(run.folder),
            progress=name,
        )
