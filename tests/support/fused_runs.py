"""Runs of fused pyramids on the tiny cache.

Import the fixture `fused` by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.context_chain import linked_features
from tests.support.extraction import TinyCache
from tests.support.tiny_study import tiny_config
from train.loop.job import Job
from train.loop.run import train_level


@dataclass(frozen=True, kw_only=True, slots=True)
class Fused:
    """A trained run of all coded levels of the tiny cache, and the features that it is of."""

    features: Path
    run: Path

    def job(self, out: Path, level: int | str = "fused", **training: Any) -> Job:
        """A job of this cache."""
        return fused_job(self.features, out, level, **training)


def fused_job(features: Path, out: Path, level: int | str = "fused", **training: Any) -> Job:
    """A job of a folder of features."""
    config = tiny_config(**{"epochs": 2, "crop": 16, "lmbda": 0.001, **training})
    return Job(
        train_cache=features / "train", val_cache=features / "val", level=level, config=config,
        device="cpu", out=out,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fused(zarr_cache: TinyCache, tmp_path_factory: pytest.TempPathFactory) -> Fused:
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("fused")
    features = linked_features(zarr_cache, folder / "features")
    return Fused(features=features, run=train_level(fused_job(features, folder / "runs")))
