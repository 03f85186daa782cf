"""Runs of untrained codecs for the tiny study's caches: what compress-features needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result

from analyze.streams_cli import compress_features, decompress_features
from configs.schema.training import ContextConfig, ModelConfig
from data.reading.level_reader import LevelReader
from tests.support.tiny_study import TinyStudy
from train.codecs.catalogue import build_codec
from train.codecs.level_codec import LevelCodec
from train.runs.checkpoint import BEST_NAME, Provenance, encode_checkpoint, load_codec, save_best

FACTORIZED = "factorized_prior_specific_level"


def make_run(
    folder: Path,
    study: TinyStudy,
    *levels: int,
    name: str = FACTORIZED,
    seed: int = 0,
    beside: Sequence[Path] = (),
) -> Path:
    """Save an untrained codec of these levels as a run's best model; latents are made large.

    `beside`: runs of the next coarser level, any of which it may see.
    """
    torch.manual_seed(seed)
    seen = [load_codec(run / BEST_NAME) for run in beside]
    sizes = {"n_hidden": 8, "n_channels": 12, "context": context_of(seen[0][0]) if seen else None}
    model = ModelConfig.model_validate({"name": name, **sizes})
    codec = build_codec(model, 256, len(levels))
    means, variances = [], []
    for level in levels:
        with LevelReader(study.train_cache, level) as reader:
            means.append(torch.from_numpy(reader.statistics.mean.copy()))
            variances.append(torch.from_numpy(reader.statistics.variance.copy()))
            detector = reader.manifest.detector["weights_sha256"]
    codec.set_standardisation(torch.stack(means).numpy(), torch.stack(variances).numpy())
    if seen:
        with LevelReader(study.train_cache, seen[0][1].level) as reader:
            codec.beside.set_standardisation(reader.statistics.mean, reader.statistics.variance)
    with torch.no_grad():
        codec.g_a[-1].weight.mul_(30)
    codec.update_tables()
    provenance = Provenance(
        cache_fingerprint="f" * 64,
        detector_weights_sha256=detector,
        versions={},
        context=tuple(info.model_sha256 for _, info in seen),
    )
    training = study.config.training.model_copy(update={"context": [str(run) for run in beside]})
    config = study.config.model_copy(update={"model": model, "training": training})
    data = encode_checkpoint(
        codec.state_dict(), config, provenance, levels=levels, epoch=1, best_validation_loss=1.0
    )
    folder.mkdir(parents=True)
    save_best(folder, data)
    assert (folder / BEST_NAME).is_file()
    return folder


def context_of(codec: LevelCodec) -> ContextConfig:
    """What a codec of the next finer level sees of this one's level."""
    before = 0 if codec.size.context is None else codec.size.context.trail_channels
    return ContextConfig(
        num_channels=codec.size.num_channels,
        stride=2,
        trail_channels=codec.size.n_channels + before,
        trail_stride=2 * codec.stride,
    )


def make_chain(folder: Path, study: TinyStudy, name: str, levels: Sequence[int]) -> list[Path]:
    """Runs of these levels, finest first, each but the coarsest beside the one after it."""
    runs: list[Path] = []
    for level in sorted(levels, reverse=True):
        run = folder / f"tiny_level_{level}" / "run_1"
        runs.insert(0, make_run(run, study, level, name=name, seed=level, beside=runs[:1]))
    return runs


def compress(study: TinyStudy, out: Path, *options: Any) -> Result:
    """Run compress-features on the split val."""
    arguments = ["--features", study.root, "--out", out, "--device", "cpu", *options]
    return CliRunner().invoke(compress_features, [str(argument) for argument in arguments])


def must_compress(study: TinyStudy, out: Path, runs: Sequence[Path]) -> str:
    """Run it for these runs; it has to succeed. Return what it printed."""
    options = [option for run in runs for option in ("--run", run)]
    result = compress(study, out, *options)
    assert result.exit_code == 0, result.output
    return result.output


def decompress(streams: Path, out: Path, *options: Any) -> Result:
    """Run decompress-features."""
    arguments = [streams, "--out", out, "--device", "cpu", *options]
    return CliRunner().invoke(decompress_features, [str(argument) for argument in arguments])
