"""Short tasks on kept threads: each once, each on one core, and their errors surface."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from data.system.threads import on_cores, per_image
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


@pytest.mark.parametrize("num_cores", [1, 3])
def test_results_per_image_come_in_order_and_few_are_made_ahead(num_cores: int) -> None:
    started: list[int] = []

    def work(task: int) -> int:
        started.append(task)
        assert not torch.is_grad_enabled()
        return task * task

    with cores(num_cores):
        results = per_image(work, range(40), "cpu")
        assert next(results) == 0
        time.sleep(0.02)
        # As many wait, or are under way, as there are threads, and one is being looked at.
        assert len(started) <= num_cores + 1
        assert list(results) == [task * task for task in range(1, 40)]


def test_an_error_beside_others_ends_the_work_and_is_raised_to_the_caller() -> None:
    def fail_at_three(task: int) -> None:
        if task == 3:
            raise ArithmeticError("image three")

    with cores(3), pytest.raises(ArithmeticError, match="image three"):
        list(per_image(fail_at_three, range(20), "cpu"))


@pytest.mark.gpu
def test_on_a_gpu_the_first_image_is_done_before_others_begin_on_streams_of_their_own() -> None:
    kept: list[torch.Tensor] = []

    def work(task: int) -> tuple[int, float]:
        if not kept:  # as a module that makes something once
            assert task == 0
            kept.append(torch.full((2048, 2048), 1.0, device="cuda") @ torch.eye(2048).cuda())
        return torch.cuda.current_stream().cuda_stream, float((kept[0] + task).mean())

    with cores(4):
        streams, values = zip(*per_image(work, range(30), "cuda"), strict=True)
    assert list(values) == [1.0 + task for task in range(30)]
    assert len(set(streams[1:])) > 1
    assert streams[0] not in streams[1:]
