"""Runs beside runs, on the tiny cache: of untrained codecs, whose latents are made large.

Import the fixture `chain` by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from data.cache.cache_folder import CacheFolder
from tests.support.extraction import TinyCache
from tests.support.tiny_study import tiny_config
from train.loop.job import Job, make_codec, open_caches
from train.runs.checkpoint import Provenance, encode_checkpoint, hash_model, save_best
from train.runs.run_folder import make_run_folder
from train.runs.run_record import RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """Two runs: of level 3, and of level 2 beside it. `features` holds links to the cache."""

    features: Path
    out: Path
    coarse: Path
    fine: Path

    @property
    def train(self) -> CacheFolder:
        return CacheFolder(self.features / "train")

    def job(self, level: int, *context: Path, out: Path | None = None, **training: Any) -> Job:
        """A job of a level beside some runs."""
        beside = {"context": [str(run) for run in context]}
        return Job(
            train_cache=self.features / "train", val_cache=self.features / "val", level=level,
            config=tiny_config(**beside, **training), device="cpu", out=out or self.out,
        )  # fmt: skip


def linked_features(cache: TinyCache, folder: Path) -> Path:
    """A folder with links to the cache as both splits: what is decoded lies beside the links."""
    folder.mkdir()
    for split in ("train", "val"):
        (folder / split).symlink_to(cache.folder)
    return folder


def untrained_run(job: Job) -> Path:
    """A finished run of the job whose codec has learned nothing."""
    job = job.settled()
    folder = make_run_folder(job.parent, job.config, datetime.now())
    with open_caches(job) as caches:
        codec = make_codec(job, caches)
    with torch.no_grad():
        codec.g_a[-1].weight.mul_(30)
    manifest = CacheFolder.of(job.train_cache).manifest
    detector = manifest.detector["weights_sha256"]
    record = RunRecord(
        level=job.level, lmbda=job.config.training.lmbda, cache_fingerprints=job.fingerprints(),
        detector_weights_sha256=detector, versions={}, seed=job.config.training.seed,
        device="cpu", precision="float32", machine="", num_processes=1, num_threads=1,
        started="", context=job.context_models(), finished="all epochs done",
    )  # fmt: skip
    record.save(folder)
    provenance = Provenance(
        cache_fingerprint=manifest.fingerprint, detector_weights_sha256=detector, versions={},
        context=tuple(each["model_sha256"] for each in record.context),
    )  # fmt: skip
    content = encode_checkpoint(
        codec.state_dict(), job.config, provenance, levels=(int(job.level),), epoch=1,
        best_validation_loss=1.0,
    )  # fmt: skip
    save_best(folder, content)
    return folder


def other_weights(run: Path) -> str:
    """Change a weight of a run's best model; return the new model's hash."""
    content = torch.load(run / "best_model.pth", weights_only=True)
    weights = content["model_state_dict"]
    next(value for name, value in weights.items() if name.startswith("g_a")).add_(0.01)
    torch.save(content, run / "best_model.pth")
    return hash_model(weights)


@pytest.fixture(scope="module")
def chain(zarr_cache: TinyCache, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A chain of two levels."""
    folder = tmp_path_factory.mktemp("chain")
    features, out = linked_features(zarr_cache, folder / "features"), folder / "runs"
    chain = Chain(features=features, out=out, coarse=out, fine=out)
    coarse = untrained_run(chain.job(3))
    return Chain(
        features=features, out=out, coarse=coarse, fine=untrained_run(chain.job(2, coarse))
    )
