"""Steps that a GPU repeats as recorded: the weights they end with are those of steps one by one."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from data.reading.transfer import on_device
from tests.benchmarks.codec_training import trainer
from tests.support.extraction import TinyCache
from train.machine.cuda_graphs import StepGraphs

MODELS = (
    "factorized_prior_specific_level",
    "scale_hyperprior",
    "mean_scale_hyperprior",
    "joint_autoregressive",
)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def trained(cache: TinyCache, model: str, precision: str, **settings: object) -> dict[str, Tensor]:
    """The state after some epochs, with another learning rate from the fourth on."""
    sizes = {"name": model, "n_hidden": 16, "n_channels": 16}
    with trainer(
        cache.folder, 2, precision=precision, batch_size=2, device="cuda", model=sizes, **settings
    ) as training:
        session = training.session
        for epoch in range(6):
            if epoch == 3:
                session.optimizer.param_groups[0]["lr"] *= 0.5
            session.stream.set_epoch(epoch)
            for item in on_device(session.stream, "cuda"):
                training(*item)
        assert (session.graphs is not None) == settings["cuda_graphs"]
        if session.graphs is not None:
            assert session.graphs._recorded and session.graphs._is_possible
        sums = {"sums": session.sums, "random": torch.cuda.get_rng_state()}
        return {**session.codec.state_dict(), **sums}


@on_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_recorded_steps_end_with_the_weights_of_steps_one_by_one(
    zarr_cache: TinyCache, model: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    one_by_one = trained(zarr_cache, model, precision, cuda_graphs=False)
    recorded = trained(zarr_cache, model, precision, cuda_graphs=True)
    differing = {
        name: float((recorded[name].double() - value.double()).abs().max())
        for name, value in one_by_one.items()
        if not torch.equal(recorded[name], value)
    }
    assert not differing


def test_steps_of_an_optimiser_that_counts_on_the_cpu_are_computed_as_usual() -> None:
    layer = nn.Linear(2, 2)
    graphs = StepGraphs([torch.optim.Adam(layer.parameters(), fused=False)])
    values = [graphs.run("key", torch.full((1, 2), float(i)), torch.sum) for i in range(6)]
    assert [float(value) for value in values] == [0, 2, 4, 6, 8, 10]


@on_gpu
def test_session_put_back_after_steps_were_recorded_goes_on_as_before(
    zarr_cache: TinyCache,
) -> None:
    sizes = {"n_hidden": 16, "n_channels": 16}
    with trainer(
        zarr_cache.folder, 2, precision="float32", batch_size=2, device="cuda", model=sizes,
        cuda_graphs=True,
    ) as training:  # fmt: skip
        session = training.session
        batches = list(on_device(session.stream, "cuda"))[:1]
        for _ in range(6):
            training(*batches[0])
        assert session.graphs is not None and session.graphs._recorded
        weights, state = deepcopy((session.codec.state_dict(), session.state()))
        ends = []
        for _ in range(2):
            session.restore(deepcopy(weights), deepcopy(state))
            for _ in range(6):
                training(*batches[0])
            ends.append(deepcopy(session.optimizer.state_dict()["state"]))
        for one, other in zip(ends[0].values(), ends[1].values(), strict=True):
            assert float(one["step"]) == float(other["step"]) == 12
            assert torch.allclose(one["exp_avg"], other["exp_avg"])
