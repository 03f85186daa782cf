"""Steps that are compiled learn what others learn; `auto` compiles what repays it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch._dynamo.utils import counters

from configs.schema.training import ModelConfig
from tests.benchmarks.codec_training import trainer
from tests.support.extraction import TinyCache
from tests.support.tiny_study import TinyStudy, tiny_config
from tests.support.training_process import rows_without_times, training_state
from train.codecs.catalogue import build_codec
from train.codecs.level_codec import LevelCodec
from train.codecs.map_transforms import measured_undone
from train.loop import compiling
from train.loop.job import Job
from train.loop.run import train_level
from train.machine import automatic
from train.machine.automatic import choose_compile, compile_by_rule, keep_compiled_code
from train.objective.rate_distortion import squared_error_of_whole
from train.runs.run_record import RunRecord

MODELS = (
    "factorized_prior_specific_level",
    "scale_hyperprior",
    "mean_scale_hyperprior",
    "joint_autoregressive",
)
SMALL = {"n_hidden": 8, "n_channels": 8, "stages": 2}


def job_of(study: TinyStudy, out: Path, **training: Any) -> Job:
    config = tiny_config(epochs=1, batch_size=6, crop=8, **training)
    model = config.model.model_copy(update={"stages": 2})
    return Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=1,
        config=config.model_copy(update={"model": model}), device="cpu", out=out,
    )  # fmt: skip


def no_compiler(function: Callable[..., Any]) -> Callable[..., Any]:
    raise RuntimeError("Failed to find C compiler\nmore")


@pytest.mark.parametrize(
    ("kind", "num_steps", "positions", "compiles", "reason"),
    [
        ("cuda", 40_000, 32 * 64 * 64, True, "40000 steps of 131072 positions save about 64 s"),
        ("cuda", 30_000, 32 * 64 * 64, False, "save about 48 s, compiling takes about 54 s"),
        ("cuda", 40_000, 32 * 4 * 4, False, "save about 0 s"),
        ("cpu", 10**9, 32 * 64 * 64, False, "not on a cpu"),
    ],
)
def test_auto_compiles_what_by_the_estimate_repays_it(
    kind: str, num_steps: int, positions: float, compiles: bool, reason: str
) -> None:
    chosen, why = compile_by_rule(kind, num_steps=num_steps, step_positions=positions)
    assert chosen == compiles
    assert reason in why


def test_auto_goes_without_where_nothing_can_be_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(automatic, "compile_by_rule", lambda *_, **__: (True, "it repays"))
    monkeypatch.setattr(torch, "compile", no_compiler)
    compiles, reason = choose_compile("cpu", num_steps=1, step_positions=1)
    assert not compiles
    expected = "it repays, but nothing can be compiled here (Failed to find C compiler)"
    assert reason == expected
    assert f"compile: no: {expected}" in caplog.text


def test_compiled_code_is_kept_with_the_user_unless_he_has_named_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "user_cache", lambda: tmp_path)
    for named, kept in ((None, tmp_path / "fpn-feature-codecs" / "inductor"), ("/mine", "/mine")):
        with monkeypatch.context() as patched:
            patched.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
            if named is not None:
                patched.setenv("TORCHINDUCTOR_CACHE_DIR", named)
            keep_compiled_code()
            assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(kept)
            patched.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that leaving puts it back


def test_a_run_keeps_what_was_decided_when_it_began(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[dict[str, Any]] = []

    def decide(device: str, **given: Any) -> tuple[bool, str]:
        decided.append(given)
        return False, "too short"

    monkeypatch.setattr(compiling, "choose_compile", decide)
    job = job_of(study, tmp_path)
    run = train_level(job)
    record = RunRecord.load(run)
    assert (record.compiled, record.compile_reason) == (False, "too short")
    assert decided == [{"num_steps": 1, "step_positions": 6 * 64}]
    longer = job.config.training.model_copy(update={"epochs": 2})
    config = job.config.model_copy(update={"training": longer})
    assert RunRecord.load(train_level(replace(job, config=config, resume=run))).epochs == 2
    assert len(decided) == 1


def test_compiled_steps_are_traced_whole_and_learn_the_same(
    zarr_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a C++ compiler: what it would be given is run by torch."""
    traced = partial(torch.compile, backend="aot_eager", fullgraph=True)
    sizes, states = {"name": MODELS[-1], **SMALL}, []  # which has all that is compiled
    for compile_ in (traced, lambda function: function):
        monkeypatch.setattr(torch, "compile", compile_)
        with trainer(
            zarr_cache.folder, 2, precision="bfloat16", batch_size=2, model=sizes
        ) as training:
            training.session.codec.compile_steps()
            for batch in training.session.stream:
                training(batch, batch.features)
            states.append((training.session.sums, training.session.codec.state_dict()))
    (sums, compiled), (plain_sums, plain) = states
    assert torch.allclose(sums, plain_sums, rtol=1e-3)
    for name, value in plain.items():
        assert torch.allclose(compiled[name], value, atol=1e-3), name


def test_codecs_of_one_size_share_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study has many runs: torch gives up on what it is asked to compile again and again."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled_before = None
    for _ in range(2):
        codec = build_codec(ModelConfig.model_validate(SMALL), 4).train()
        codec.compile_steps()
        codec(torch.zeros(2, 4, 8, 8))["x_hat"].sum().backward()
        now = counters["stats"]["unique_graphs"]
        assert compiled_before in (None, now)
        compiled_before = now


def test_maps_as_they_are_stored_give_the_same_step_to_the_bit(zarr_cache: TinyCache) -> None:
    sums = []
    for precision in ("bfloat16", "float32"):
        for convert in (torch.Tensor.float, lambda x: x):
            with trainer(
                zarr_cache.folder, 2, precision=precision, batch_size=2, model=SMALL
            ) as training:
                for batch in training.session.stream:
                    assert batch.features.dtype == torch.float16
                    training(batch, convert(batch.features))
                sums.append(training.session.sums)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[2], sums[3])
    assert not torch.equal(sums[0], sums[2])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_runs_learn_the_same_and_save_the_same_names(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One function of them all: a C++ compiler takes 20 s for each network. And no header that is
    # compiled beforehand, which repays itself after some.
    monkeypatch.setattr(torch._inductor.config, "cpp_cache_precompile_headers", False)
    monkeypatch.setattr(LevelCodec, "transform_names", ())
    monkeypatch.setattr(LevelCodec, "functions_beside", (measured_undone,))
    plain = train_level(job_of(study, tmp_path / "plain"))
    compiled = train_level(job_of(study, tmp_path / "compiled", compile=True))
    losses = [
        [float(row["val_loss"]) for row in rows_without_times(run)] for run in (plain, compiled)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    names = [
        training_state(run / "last_model.pth")["model_state_dict"].keys()
        for run in (plain, compiled)
    ]
    assert names[0] == names[1]
    assert [RunRecord.load(run).compiled for run in (plain, compiled)] == [False, True]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_steps_that_are_recorded_end_as_those_that_are_not(
    zarr_cache: TinyCache, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    sums = {}
    for cuda_graphs in (True, False):
        with trainer(
            zarr_cache.folder, 0, precision=precision, batch_size=2, device="cuda",
            model=SMALL, cuda_graphs=cuda_graphs,
        ) as training:  # fmt: skip
            training.session.codec.compile_steps()
            batch = next(iter(training.session.stream))
            x = batch.features.to("cuda")
            for _ in range(8):
                training(batch, x)
            graphs = training.session.graphs
            assert (graphs is not None and bool(graphs._recorded)) == cuda_graphs
            sums[cuda_graphs] = training.session.sums
    assert torch.allclose(sums[True], sums[False], rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS)
def test_compiled_steps_on_a_gpu_learn_what_others_learn(zarr_cache: TinyCache, model: str) -> None:
    sums = {}
    for compiled in (True, False):
        with trainer(
            zarr_cache.folder, 0, precision="bfloat16", batch_size=2, device="cuda",
            model={"name": model, **SMALL},
        ) as training:  # fmt: skip
            if compiled:
                training.session.codec.compile_steps()
            batch = next(iter(training.session.stream))
            x = batch.features.to("cuda")
            for _ in range(8):
                training(batch, x)
            sums[compiled] = training.session.sums
    assert torch.allclose(sums[True][:3], sums[False][:3], rtol=1e-2)


def test_what_is_measured_is_the_error_of_what_is_restored(zarr_cache: TinyCache) -> None:
    with trainer(zarr_cache.folder, 2, precision="float32", batch_size=2, model=SMALL) as training:
        codec = training.session.codec.eval()
        x = next(iter(training.session.stream)).features
        measured = codec(x.float(), squared_error_of_whole)["measured"]
        assert torch.equal(measured, squared_error_of_whole(codec(x.float())["x_hat"], x))
