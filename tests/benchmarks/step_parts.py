"""Where the time of a training step goes, by kind of kernel (on a CPU: of operator).

Default codec, level 0, bfloat16, the step as train-level makes it, on a batch that stays. The share
of the peak is that of the convolutions' arithmetic: the peak is what a large product reaches.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from data.reading.transfer import on_device
from tests.benchmarks.codec_training import Trainer, trainer
from tests.benchmarks.device_cache import STREAMED, laid_out, seconds_of, wait_for
from tests.benchmarks.gpu import peak_flops
from tests.benchmarks.report import Cell, Table, main

BATCH_SIZES = (32, 128)
SHAPE = (64, 64)
NUM_STEPS = 20
SMALL = {
    "BATCH_SIZES": (2,),
    "SHAPE": (16, 16),
    "NUM_STEPS": 2,
    "codec_training.CODEC": {"n_hidden": 8, "n_channels": 12},
}

# Kind -> what names of its kernels and operators hold; the first that fits counts.
KINDS = {
    "casts and copies": r"copy|memcpy|memset|nchwtonhwc|nhwctonchw|transpose|_to_copy|clone|cat",
    "optimisers": r"adam|multi_tensor|foreach|lerp",
    "convolutions": r"conv|cudnn|xmma|gemm|wgrad|dgrad|fprop|cutlass|winograd|addmm|::mm",
    "reductions": r"reduce|::sum|::mean|norm|triton_red|triton_per",
    "random numbers": r"distribution|uniform|rand",
    "GDN and other elementwise": r"elementwise|vectorized|triton_poi|aten::",
}


def run(folder: Path, device: str = "cuda") -> Iterator[Table]:
    """Look at steps of each batch size."""
    peak = peak_flops(device)
    cache = laid_out(folder / "cache", max(BATCH_SIZES), {0: SHAPE})
    for batch_size in BATCH_SIZES:
        with trainer(
            cache, 0, precision="bfloat16", batch_size=batch_size, device=device, **STREAMED
        ) as training:
            yield _measure(training, batch_size, device, peak)


def kind_of(name: str) -> str:
    """Return the kind of a kernel or an operator."""
    fitting = (kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower()))
    return next(fitting, "other")


def _measure(training: Trainer, batch_size: int, device: str, peak: float) -> Table:
    batch, x = next(iter(on_device(training.session.stream, device, as_stored=True)))
    x = x.clone(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter:
        training(batch, x)
    seconds = seconds_of(lambda: training(batch, x), device, rounds=3, calls=NUM_STEPS)
    activities = [ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA]
    with profile(activities=activities) as seen:
        for _ in range(NUM_STEPS):
            training(batch, x)
        wait_for(device)
    times, counts = Counter[str](), Counter[str]()
    for event in seen.key_averages():
        if (seconds_here := _seconds(event, device) / NUM_STEPS) > 0:
            times[kind_of(event.key)] += seconds_here
            counts[kind_of(event.key)] += event.count
    total = sum(times.values())
    rows: list[list[Cell]] = [
        [kind, times[kind] * 1e3, times[kind] / total, counts[kind] / NUM_STEPS]
        for kind, _ in times.most_common()
    ]
    rows.append(["all kernels", total * 1e3, 1.0, sum(counts.values()) / NUM_STEPS])
    rows.append(["the step, by the clock", seconds * 1e3, seconds / total, None])
    flops = counter.get_total_flops()
    return Table(
        title=f"step_parts: level 0, batches of {batch_size}, "
        f"{flops / seconds / 1e12:.1f} of {peak / 1e12:.1f} TFLOP/s: {flops / seconds / peak:.3f}",
        note="the products of a GDN count as convolutions",
        columns=["", "ms", "of kernels", "kernels"],
        rows=rows,
    )


def _seconds(event: Any, device: str) -> float:
    """Return the time of all kernels of a name; on a CPU of an operator, without what it calls."""
    if device == "cpu":
        microseconds: float = event.self_cpu_time_total
    elif event.device_type != DeviceType.CUDA or event.is_user_annotation:
        return 0.0  # the same time again: of what asked for the kernels, or of marks around them
    else:
        microseconds = event.self_device_time_total
    return microseconds / 1e6


if __name__ == "__main__":
    main("step_parts", run)
