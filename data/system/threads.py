"""Background threads that leave the cores to a computation, and threads that are one."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Task = TypeVar("Task")
Result = TypeVar("Result")


def limit_cores(num_cores: int) -> None:
    """Let torch use so many cores in the calling thread; call it at a thread's start.

    Otherwise each thread that touches a tensor gets a team of workers as large as the machine, and
    the teams of the main and the background thread fight for the same cores.
    """
    torch.set_num_threads(num_cores)


def keep_default() -> None:
    """Undo `limit_cores` for threads still to be started; call it in the main thread."""
    torch.set_num_threads(torch.get_num_threads())


def run_ahead(items: Iterable[Item], *, depth: int, most_cores: int) -> Generator[Item, None, None]:
    """Run an iterator in a thread, `depth` items ahead at most (0: no limit); errors surface."""
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    num_cores = min(most_cores, torch.get_num_threads())

    def put(item: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        limit_cores(num_cores)
        try:
            for item in items:
                if not put(item):
                    return
            put(None)
        except BaseException as error:  # handed to the caller, who raises it
            put(error)

    thread = threading.Thread(target=run, name="run-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            keep_default()
            yield item
    finally:
        stopped.set()
        thread.join()


def in_order(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, num_threads: int, ahead: int
) -> Iterator[Result]:
    """Yield the results of all tasks in order; at most `ahead` are waiting or under way.

    Each thread computes on one core: what depends on one image alone is fastest so, and does not
    depend on the number of cores.
    """
    upcoming = iter(tasks)
    under_way: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max(1, num_threads), initializer=limit_cores, initargs=(1,)) as pool:
        try:
            for task in upcoming:
                under_way.append(pool.submit(function, task))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
    keep_default()


def on_cores(function: Callable[[Task], object], tasks: Sequence[Task]) -> None:
    """Run the function for each task, each on one core, on as many as the calling thread may use.

    For short tasks: the threads are kept.
    """
    num_threads = min(torch.get_num_threads(), len(tasks))
    if num_threads < 2:
        for task in tasks:
            function(task)
        return
    for _ in _kept_pool(os.getpid(), torch.get_num_threads()).map(function, tasks):
        pass
    keep_default()


@cache
def _kept_pool(process: int, num_threads: int) -> ThreadPoolExecutor:
    """Return a pool of this process: threads do not outlive a fork."""
    return ThreadPoolExecutor(num_threads, initializer=limit_cores, initargs=(1,))


_MOST_CORES = 8  # each holds the maps of an image
_THREADS_OF_A_GPU = 4  # one codes symbols or copies maps while the others ask for kernels


def num_threads(device: str) -> int:
    """Return how many images, or batches of them, are under way at once."""
    most = _MOST_CORES if torch.device(device).type == "cpu" else _THREADS_OF_A_GPU
    return min(most, torch.get_num_threads())


def per_image(
    function: Callable[[Task], Result], tasks: Iterable[Task], device: str
) -> Iterator[Result]:
    """Yield the function's result for each image or batch, in order; it runs without gradients.

    At most `num_threads(device)` are under way, and as many results wait. On a GPU each thread has
    a stream of its own: what one does on the CPU, such as coding symbols, others overlap with.
    """

    def run(task: Task) -> Result:
        with torch.no_grad():
            return function(task)

    todo, threads = list(tasks), num_threads(device)
    if threads < 2:
        yield from map(run, todo)
    elif torch.device(device).type == "cpu":
        yield from in_order(run, todo, num_threads=threads, ahead=threads)
    else:
        # The first alone: what modules make once and keep is then there before others use it.
        yield from map(run, todo[:1])
        torch.cuda.synchronize(device)
        on_stream = _on_streams_of_threads(run, device)
        yield from in_order(on_stream, todo[1:], num_threads=threads, ahead=threads)


def _on_streams_of_threads(
    function: Callable[[Task], Result], device: str
) -> Callable[[Task], Result]:
    """Let each thread's kernels run on a CUDA stream of its own; done when the function returns."""
    kept = threading.local()

    def run(task: Task) -> Result:
        if not hasattr(kept, "stream"):
            kept.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(kept.stream):
            result = function(task)
            kept.stream.synchronize()
        return result

    return run
