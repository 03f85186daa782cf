"""Short tasks on kept threads: each once, each on one core, and their errors surface."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from data.system.threads import on_cores
from tests.support.torch_cores import cores


@pytest.mark.parametrize("num_cores", [1, 3])
def test_every_task_runs_once_with_one_core_for_torch(num_cores: int) -> None:
    done: list[tuple[int, int]] = []
    with cores(num_cores):
        on_cores(lambda task: done.append((task, torch.get_num_threads())), range(20))
        assert torch.get_num_threads() == num_cores
    assert sorted(task for task, _ in done) == list(range(20))
    assert {used for _, used in done} == {1}


def test_a_task_alone_runs_in_the_calling_thread_with_all_its_cores() -> None:
    seen: list[tuple[int, int]] = []
    with cores(3):
        on_cores(lambda _: seen.append((threading.get_ident(), torch.get_num_threads())), [0])
    assert seen == [(threading.get_ident(), 3)]


def test_the_error_of_a_task_is_raised_to_the_caller() -> None:
    def fail_at_three(task: int) -> None:
        if task == 3:
            raise ArithmeticError("task three")

    with cores(2), pytest.raises(ArithmeticError, match="task three"):
        on_cores(fail_at_three, range(5))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own() -> None:
    with cores(2):
        on_cores(lambda _: None, range(2))
        child = os.fork()
        if child == 0:
            on_cores(lambda _: None, range(2))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
