"""Steps that a GPU repeats as recorded: the weights they end with are those of steps one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.reading.transfer import on_device
from tests.benchmarks.codec_training import trainer
from tests.support.extraction import TinyCache
from train.machine.cuda_graphs import StepGraphs, _Recorded

MODELS = (
    "factorized_prior_specific_level",
    "scale_hyperprior",
    "mean_scale_hyperprior",
    "joint_autoregressive",
)


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


@pytest.mark.gpu
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
    values = [graphs.run("key", [torch.full((1, 2), float(i))], torch.sum) for i in range(6)]
    assert [float(value) for value in values] == [0, 2, 4, 6, 8, 10]


def test_session_put_back_forgets_the_steps_that_were_recorded(
    zarr_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would go on with the optimiser's numbers of before, which lie elsewhere."""
    sizes = {"n_hidden": 8, "n_channels": 8}
    waited_for: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited_for.append)
    with trainer(
        zarr_cache.folder, 2, precision="float32", batch_size=2, model=sizes
    ) as training:  # fmt: skip
        session = training.session
        graphs = session.graphs = StepGraphs([session.optimizer])
        graphs._recorded["key"] = _Recorded(Any, torch.zeros(1), torch.zeros(1))  # type: ignore[arg-type]
        session.restore(session.codec.state_dict(), session.state())
        assert not graphs._recorded
        assert waited_for == [torch.device("cpu")]
