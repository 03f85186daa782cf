"""The state of a training is compared with a session before an optimiser believes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from train.runs.training_state import require_like, require_states_like

OWN = {
    "epoch": 3,
    "rate": 0.1,
    "fused": True,
    "best": None,
    "sums": torch.zeros(2),
    "betas": (0, 1),
}


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"epoch": 0}, {"rate": 1}, {"rate": float("inf")}, {"fused": None}, {"best": {"a": 1}},
        {"sums": torch.ones(2)}, {"betas": [0, 2]}, {"new": "of a later version"},
    ],
    ids=str,
)  # fmt: skip
def test_state_of_the_same_kinds_of_values_is_taken(changes: dict[str, Any]) -> None:
    require_like(OWN | changes, OWN)
    require_like({}, OWN)


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": -1}, {"epoch": True}, {"epoch": 10**30}, {"epoch": 1.0}, {"rate": "0.1"},
        {"rate": 10**400}, {"fused": 1}, {"sums": torch.zeros(3)}, {"sums": [0.0, 0.0]},
        {"sums": torch.zeros(2, dtype=torch.int64)}, {"sums": torch.zeros(2).to_sparse()},
        {"sums": torch.zeros(2, device="meta")}, {"betas": (0, 1, 2)}, {"betas": (0, "1")},
        {"betas": 0},
    ],
    ids=str,
)  # fmt: skip
def test_value_of_another_kind_is_refused_by_its_place(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=rf"training_state\.{name}.* is of another kind"):
        require_like(OWN | changes, OWN)


def test_optimizer_s_state_is_as_large_as_its_weights_or_a_number() -> None:
    weight = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(3, 2)
    optimizer.step()
    state = optimizer.state_dict()
    require_states_like(state, optimizer)
    of_weight = state["state"][0]
    for forged in (
        {"state": {0: of_weight | {"exp_avg": torch.zeros(2, 2)}}},  # C would write beyond it
        {"state": {0: of_weight | {"exp_avg": torch.zeros(3, 2, dtype=torch.int32)}}},
        {"state": {0: of_weight | {"step": 1}}}, {"state": {1: of_weight}}, {"state": {0: []}},
        {"state": []}, None,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="is of another kind"):
            require_states_like(forged, optimizer)
