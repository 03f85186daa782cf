"""bfloat16 learns what float32 learns; `auto` goes by the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.reading.level_reader import LevelReader
from tests.support.tiny_study import TinyStudy, tiny_config
from tests.support.training_process import rows_without_times, training_state
from train.loop.job import Job, make_codec, open_caches
from train.loop.run import train_level
from train.machine import automatic
from train.machine.automatic import autocast_dtype, precision_by_rule
from train.runs.run_record import RunRecord


def job_of(study: TinyStudy, out: Path, level: int = 1, **training: Any) -> Job:
    return Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=level,
        config=tiny_config(**training), device="cpu", out=out,
    )  # fmt: skip


def test_curves_of_bfloat16_and_float32_agree_within_noise(
    study: TinyStudy, tmp_path: Path
) -> None:
    """Noise is what another seed changes."""
    runs = {
        name: train_level(
            job_of(study, tmp_path / name, level=4, epochs=20, learning_rate=5e-3, **settings)
        )
        for name, settings in {
            "float32": {"precision": "float32"},
            "bfloat16": {"precision": "bfloat16"},
            "seed": {"precision": "float32", "seed": 1},
        }.items()
    }
    exact, fast, other = (
        np.array([float(row["train_loss"]) for row in rows_without_times(run)])
        for run in runs.values()
    )
    assert exact[-5:].mean() < 0.8 * exact[:5].mean(), "nothing was learned"
    assert (exact != fast).any(), "the transforms are to be computed in bfloat16"
    assert np.abs(fast - exact).mean() < 0.5 * np.abs(other - exact).mean()
    assert RunRecord.load(runs["bfloat16"]).precision == "bfloat16"
    weights = training_state(runs["bfloat16"] / "last_model.pth")["model_state_dict"]
    assert all(value.dtype != torch.bfloat16 for value in weights.values())


@pytest.mark.parametrize(
    ("device", "chosen", "reason"),
    [
        ({"kind": "cuda", "capability": (9, 0)}, "bfloat16", "CUDA capability 9.0"),
        ({"kind": "cuda", "capability": (8, 0)}, "bfloat16", "CUDA capability 8.0"),
        ({"kind": "cuda", "capability": (12, 0)}, "bfloat16", "CUDA capability 12.0"),
        ({"kind": "cuda", "capability": (7, 5)}, "float32", "7.5 has no bfloat16 of its own"),
        ({"kind": "cpu", "cpu_flags": ["avx2", "amx_bf16"]}, "bfloat16", "has amx_bf16"),
        ({"kind": "cpu", "cpu_flags": ["avx512_bf16"]}, "bfloat16", "has avx512_bf16"),
        (
            {"kind": "cpu", "cpu_flags": ["avx512_bf16", "amx_bf16"]},
            "bfloat16", "has amx_bf16 and avx512_bf16",
        ),
        ({"kind": "cpu", "cpu_flags": ["avx512f", "amx_tile"]}, "float32", "neither amx_bf16 nor"),
        ({"kind": "cpu"}, "float32", "neither amx_bf16 nor avx512_bf16"),
        ({"kind": "cuda", "capability": (7, 0), "cpu_flags": ["amx_bf16"]}, "float32", "7.0"),
        ({"kind": "mps"}, "float32", "no rule for devices of kind mps"),
    ],
    ids=str,
)  # fmt: skip
def test_auto_goes_by_what_the_device_is(device: dict[str, Any], chosen: str, reason: str) -> None:
    precision, why = precision_by_rule(**device)
    assert precision == chosen
    assert reason in why


@pytest.mark.parametrize(
    ("cpuinfo", "chosen"),
    [
        ("processor\t: 0\nflags\t\t: fpu amx_bf16 amx_tile\n", "bfloat16"),
        ("processor\t: 0\nflags\t\t: fpu avx2\nbugs\t\t: amx_bf16\n", "float32"),
        ("Features\t: fp asimd bf16\n", "float32"),
        (None, "float32"),
    ],
)
def test_a_run_records_the_precision_and_why_and_the_log_says_so(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, cpuinfo: str | None, chosen: str,
) -> None:  # fmt: skip
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(automatic, "_CPUINFO", path)
    caplog.set_level("INFO")
    job = job_of(study, tmp_path, level=4, epochs=1, precision="auto")
    record = RunRecord.load(train_level(job))
    assert record.precision == chosen
    assert record.precision_reason.startswith("the processor has ")
    assert f"precision: {chosen}: {record.precision_reason}" in caplog.text


def test_a_run_that_goes_on_keeps_its_precision_on_any_machine(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(study, tmp_path, level=4, epochs=1, precision="auto")
    monkeypatch.setattr(automatic, "_flags_of_cpu", lambda: ["amx_bf16"])
    run = train_level(job)
    monkeypatch.setattr(automatic, "_flags_of_cpu", list)
    longer = job.config.training.model_copy(update={"epochs": 2})
    job = replace(job, config=job.config.model_copy(update={"training": longer}), resume=run)
    record = RunRecord.load(train_level(job))
    assert (record.epochs, record.precision) == (2, "bfloat16")
    assert "amx_bf16" in record.precision_reason


def test_a_named_precision_needs_no_reason(study: TinyStudy, tmp_path: Path) -> None:
    run = train_level(job_of(study, tmp_path, level=4, epochs=1, precision="float32"))
    assert RunRecord.load(run).precision_reason == ""
    assert autocast_dtype("float32") is None


def test_channel_weights_shift_the_error_to_the_channels_that_count_less(
    study: TinyStudy, tmp_path: Path
) -> None:
    weights = [1.0] * 128 + [100.0] * 128
    path = tmp_path / "weights.json"
    path.write_text(f'{{"levels": {{"1": {weights}}}}}')
    shares = {}
    for name, more in {
        "mse": {},
        "weighted": {"distortion": "channel_weighted", "channel_weights": str(path)},
    }.items():
        run = train_level(job_of(study, tmp_path / name, epochs=15, **more))
        state = training_state(run / "last_model.pth")["model_state_dict"]
        job = job_of(study, tmp_path)
        with open_caches(job) as caches, LevelReader(study.val_cache, 1) as reader:
            codec = make_codec(job, caches).eval()
            codec.load_state_dict(state)
            errors = torch.zeros(256)
            for index in range(reader.num_samples):
                x = torch.from_numpy(reader.sample(index).copy()).float().permute(2, 0, 1)[None]
                with torch.no_grad():
                    errors += (codec(x)["x_hat"] - x).square().mean((0, 2, 3))
        shares[name] = float(errors[128:].sum() / errors.sum())
    assert shares["weighted"] < shares["mse"]


def test_weighted_loss_is_the_weighted_error_plus_lambda_times_the_rate(
    study: TinyStudy, tmp_path: Path
) -> None:
    job = job_of(study, tmp_path, epochs=1, distortion="channel_weighted")
    run = train_level(job)
    row = rows_without_times(run)[0]
    state = training_state(run / "last_model.pth")["model_state_dict"]
    error, num_positions = torch.zeros(256, dtype=torch.float64), 0
    with open_caches(job) as caches:
        codec = make_codec(job, caches).eval()
        codec.load_state_dict(state)
        variance = caches.train[0].statistics.variance
        for index in range(caches.val[0].num_samples):
            x = torch.from_numpy(caches.val[0].sample(index).copy()).float().permute(2, 0, 1)[None]
            with torch.no_grad():
                error += (codec(x)["x_hat"] - x).square().double().sum((0, 2, 3))
            num_positions += x.shape[2] * x.shape[3]
    assert variance.min() > 1e-3 * variance.mean(), "no channel is to reach the floor here"
    weights = (1 / variance) / (1 / variance).mean()
    distortion = float((error.numpy() * weights).sum() / (num_positions * 256))
    assert float(row["val_loss"]) == pytest.approx(
        distortion + 0.001 * float(row["val_bpp"]), rel=1e-4
    )
    assert float(row["val_mse"]) == pytest.approx(
        float(error.sum()) / (num_positions * 256), rel=1e-4
    )
