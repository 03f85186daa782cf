"""What runs in one process have of their own: each draws what it would draw alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.support.devices import DEVICES
from train.machine.own_state import OwnState, now_on, release_memory


def drawn(device: str) -> Tensor:
    return torch.cat([torch.rand(3), torch.rand(3, device=device).cpu()])


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_drawn_in_turns_is_what_is_drawn_alone(device: str) -> None:
    alone = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        alone.append(torch.stack([drawn(device) for _ in range(3)]))
    torch.manual_seed(3)
    outside = torch.stack([drawn(device) for _ in range(2)])

    torch.manual_seed(3)
    before = drawn(device)
    states = [OwnState(device) for _ in range(2)]
    for seed, state in enumerate(states, start=1):
        with state.in_use():
            torch.manual_seed(seed)
    mine: list[list[Tensor]] = [[], []]
    for _ in range(3):
        ready = now_on(device)
        for state, drawings in zip(states, mine, strict=True):
            state.wait_for(ready)
            with state.in_use():
                drawings.append(drawn(device))
        for state in states:
            state.is_waited_for()
    assert torch.equal(torch.stack([before, drawn(device)]), outside)
    for expected, drawings in zip(alone, mine, strict=True):
        assert torch.equal(torch.stack(drawings), expected)
    release_memory(device)


def test_number_of_threads_is_a_run_s_own_also_where_it_fails() -> None:
    before = torch.get_num_threads()
    state = OwnState("cpu")
    with pytest.raises(ValueError, match="of the run"), state.in_use():
        torch.set_num_threads(before + 1)
        raise ValueError("of the run")
    assert torch.get_num_threads() == before
    with state.in_use():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.gpu
def test_recorded_work_draws_a_run_s_own_numbers_while_another_run_s_is_under_way() -> None:
    """Both are asked for before either has been done; alone, one by one, they draw the same."""

    def recorded(seed: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        torch.cuda.manual_seed(seed)
        graph, out = torch.cuda.CUDAGraph(), torch.zeros(4, device="cuda")
        with torch.cuda.graph(graph):
            out += torch.rand(1 << 20, device="cuda")[:4]
        return graph, out

    expected = []
    for seed in (1, 2):
        graph, out = recorded(seed)
        for _ in range(50):
            graph.replay()
        expected.append(out.cpu())
    states = [OwnState("cuda") for _ in range(2)]
    both = []
    for seed, state in enumerate(states, start=1):
        state.wait_for(now_on("cuda"))
        with state.in_use():
            both.append(recorded(seed))
    for _ in range(50):
        for state, (graph, _) in zip(states, both, strict=True):
            with state.in_use():
                graph.replay()
    for state in states:
        state.is_waited_for()
    assert torch.equal(torch.stack([out.cpu() for _, out in both]), torch.stack(expected))
