"""Short tasks on kept threads: each once, each on one core, and their errors surface."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from data.threads import on_cores


@pytest.mark.parametrize("num_cores", [1, 3])
def test_every_task_runs_once_with_one_core_for_torch(num_cores: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_cores)
    done: list[tuple[int, int]] = []
    on_cores(lambda task: done.append((task, torch.get_num_threads())), range(20))
    assert sorted(task for task, _ in done) == list(range(20))
    assert {cores for _, cores in done} == {1}
    assert torch.get_num_threads() == num_cores
    torch.set_num_threads(before)


def test_a_task_alone_runs_in_the_calling_thread_with_all_its_cores() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen: list[tuple[int, int]] = []
    on_cores(lambda _: seen.append((threading.get_ident(), torch.get_num_threads())), [0])
    assert seen == [(threading.get_ident(), 3)]
    torch.set_num_threads(before)


def test_the_error_of_a_task_is_raised_to_the_caller() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def fail_at_three(task: int) -> None:
        if task == 3:
            raise ArithmeticError("task three")

    with pytest.raises(ArithmeticError, match="task three"):
        on_cores(fail_at_three, range(5))
    torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    on_cores(lambda _: None, range(2))
    child = os.fork()
    if child == 0:
        on_cores(lambda _: None, range(2))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    torch.set_num_threads(before)
