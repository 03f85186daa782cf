"""Which arithmetic the transforms use: float32, or bfloat16 where the device computes with it.

`training.precision: auto` goes by what the device is, not by a stop-watch: two seeds of one study,
side by side on a busy machine, get one precision.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import torch

log = logging.getLogger(__name__)

_LEAST_CAPABILITY = (8, 0)  # Ampere: the first NVIDIA GPUs whose tensor cores take bfloat16
_CPU_FLAGS = ("amx_bf16", "avx512_bf16")  # instructions that multiply bfloat16; others emulate them
_CPUINFO = Path("/proc/cpuinfo")


def precision_by_rule(
    kind: str, *, capability: tuple[int, int] = (0, 0), cpu_flags: Collection[str] = ()
) -> tuple[str, str]:
    """Return (`float32` or `bfloat16`, why) for a device; pure.

    `kind` is torch's (cpu, cuda, ...), `capability` a CUDA device's, `cpu_flags` are as
    /proc/cpuinfo spells them.
    """
    if kind == "cuda":
        its = "CUDA capability {}.{}".format(*capability)
        if capability >= _LEAST_CAPABILITY:
            return "bfloat16", its
        return "float32", f"{its} has no bfloat16 of its own: that begins with 8.0"
    if kind == "cpu":
        there = [flag for flag in _CPU_FLAGS if flag in cpu_flags]
        if there:
            return "bfloat16", f"the processor has {' and '.join(there)}"
        return "float32", f"the processor has neither {' nor '.join(_CPU_FLAGS)}"
    return "float32", f"no rule for devices of kind {kind}"


def choose_precision(device: str) -> tuple[str, str]:
    """Return what `precision_by_rule` says of a device of this machine, and log it."""
    kind = torch.device(device).type
    if kind == "cuda":
        chosen = precision_by_rule(kind, capability=torch.cuda.get_device_capability(device))
    else:
        chosen = precision_by_rule(kind, cpu_flags=_flags_of_cpu())
    log.info("precision: %s: %s", *chosen)
    return chosen


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Return what a codec's `autocast_dtype` is for a precision."""
    return torch.bfloat16 if precision == "bfloat16" else None


def _flags_of_cpu() -> list[str]:
    # torch.cpu.get_capabilities says the same, but not in every version that we run on.
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = (line.partition(":") for line in text.splitlines())
    return next((flags.split() for name, _, flags in lines if name.strip() == "flags"), [])
