"""Training steps beside a busy process, and of two runs at once, against those of quiet cores.

The default codec on batches of 8 x 256 x 8 x 8, level 3's crops: where threads wait for each other
most. A process either does what a command does before it loads torch, or leaves all to torch. How
many cores it finds idle is told to it: all, or all but one if it begins beside the busy process.
Figures are of no use unless nothing else computes: the title says how many cores really were idle.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from configs import cores
from tests.benchmarks.report import Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians

ROUNDS = 9
ROUND_S = 1.0
BUSY = "while True: pass"
QUIET, BESIDE, BEGUN_BESIDE = "quiet", "beside a busy process", "begun beside a busy process"
TWO = "two runs at once, each"
PLAIN_QUIET, PLAIN_BESIDE = "torch alone: quiet", "torch alone: beside a busy process"


class Run:
    """A process that trains; a call lets it go on for a second."""

    def __init__(self, resources: ExitStack, *, idle: float | None) -> None:
        """Begin, as a command that finds so many cores idle, or as torch alone."""
        context = multiprocessing.get_context("spawn")
        self._pool = resources.enter_context(
            ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(idle,))
        )
        self(0)

    def __call__(self, number: int) -> float:
        """Return the seconds of a step."""
        return self.start()()

    def start(self) -> Callable[[], float]:
        """Let it go on; return what waits for the seconds of a step."""
        return self._pool.submit(_seconds, ROUND_S).result


def run(folder: Path) -> list[Table]:
    """Measure all in turn, so that a disturbance hits them alike."""
    idle = cores.idle_cores(1.0)
    with ExitStack() as resources:
        most = cores.usable_cores()
        ours, other, late, plain = (
            Run(resources, idle=each) for each in (most, most, most - 1, None)
        )
        busy = ExitStack()
        resources.push(busy)

        def before(name: str, number: int) -> None:
            busy.close()
            if name in (BESIDE, BEGUN_BESIDE, PLAIN_BESIDE):
                busy.enter_context(_busy())

        def both(number: int) -> float:
            return sum([wait() for wait in [ours.start(), other.start()]]) / 2

        turns: dict[str, Callable[[int], float]] = {
            QUIET: ours, PLAIN_QUIET: plain, BESIDE: ours, BEGUN_BESIDE: late, TWO: both,
            PLAIN_BESIDE: plain,
        }  # fmt: skip
        measured = interleaved(turns, rounds=ROUNDS, before=before)
    seconds = medians(measured)
    quiet = seconds[QUIET]
    return [
        Table(
            title=f"shared_cores: a training step, {idle:.1f} cores idle before",
            columns=["", "ms", "least", "most", "of quiet"],
            rows=[
                [name, seconds[name] * 1e3, min(all_) * 1e3, max(all_) * 1e3, seconds[name] / quiet]
                for name, all_ in measured.items()
            ],
            goals=[
                Goal(what=f"{name} / quiet", ratio=seconds[name] / quiet, at_most=2.5)
                for name in (BESIDE, BEGUN_BESIDE)
            ]
            + [Goal(what="quiet / torch alone", ratio=quiet / seconds[PLAIN_QUIET], at_most=1.05)],
        )
    ]


@contextmanager
def _busy() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


_steps: list[Callable[[], None]] = []


def _begin(idle: float | None) -> None:
    if idle is not None:
        cores.idle_cores = lambda seconds: idle
        cores.share_cores()
    _steps.append(_training_step())


def _training_step() -> Callable[[], None]:
    import torch  # not before the process has shared the cores

    from configs.schema.training import ModelConfig
    from train.codecs.catalogue import build_codec
    from train.objective.rate_distortion import rate_bits

    torch.manual_seed(0)
    codec = build_codec(ModelConfig(), 256).train()
    optimizer = torch.optim.Adam(codec.parameters(), fused=True)
    x = torch.randn(8, 256, 8, 8).to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        output = codec(x)
        error = (output["x_hat"] - x).square().mean()
        (error + 0.001 * rate_bits(output["likelihoods"]).sum() / x.numel()).backward()
        optimizer.step()

    return step


def _seconds(seconds: float) -> float:
    """Train for so long, and at least a step; return what a step takes."""
    start, num_steps = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < seconds or not num_steps:
        _steps[0]()
        num_steps += 1
    return taken / num_steps


if __name__ == "__main__":
    main("shared_cores", run)
