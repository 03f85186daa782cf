"""What `auto` chooses for a device: its arithmetic, and whether it computes what is compiled.

`training.precision: auto` and `training.compile: auto` go by what the device is and the length of
the run, not by a stop-watch: two seeds of one study, side by side on a busy machine, are computed
alike.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

import torch

from data.system.compiled_loops import user_cache

log = logging.getLogger(__name__)

_LEAST_CAPABILITY = (8, 0)  # Ampere: the first NVIDIA GPUs whose tensor cores take bfloat16
_CPU_FLAGS = ("amx_bf16", "avx512_bf16")  # instructions that multiply bfloat16; others emulate them
_CPUINFO = Path("/proc/cpuinfo")
# Default codec, batches of 32 crops of 64x64, H100: forward and backward took 3.0 ms of the GPU
# instead of 4.6. A slower GPU gains more; coarse levels, by fewer kernels, too: both are left out.
_SAVED_S_PER_POSITION = 1.6e-3 / (32 * 64 * 64)
# Measured there: 27 s. Batches of a second shape, as an epoch's last one often is, take as long.
_COMPILE_S = 2 * 27.0


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


def compile_by_rule(kind: str, *, num_steps: int, step_positions: float) -> tuple[bool, str]:
    """Return (whether to compile, why) for a run; pure.

    `kind` is torch's (cpu, cuda, ...); a step has `step_positions` feature positions.
    """
    if kind != "cuda":
        return False, f"auto compiles on CUDA devices alone, not on a {kind}"
    saved_s = num_steps * step_positions * _SAVED_S_PER_POSITION
    estimate = (
        f"{num_steps} steps of {step_positions:.0f} positions save about {saved_s:.0f} s, "
        f"compiling takes about {_COMPILE_S:.0f} s"
    )
    return saved_s > _COMPILE_S, estimate


def choose_compile(device: str, *, num_steps: int, step_positions: float) -> tuple[bool, str]:
    """Return what `compile_by_rule` says, and False where nothing can be compiled; log it."""
    kind = torch.device(device).type
    chosen = compile_by_rule(kind, num_steps=num_steps, step_positions=step_positions)
    if chosen[0] and (reason := _why_not(device)) is not None:
        chosen = False, f"{chosen[1]}, but nothing can be compiled here ({reason})"
    log.info("compile: %s: %s", "yes" if chosen[0] else "no", chosen[1])
    return chosen


def keep_compiled_code() -> None:
    """Let torch keep what it compiles in the user's cache folder, from one run to the next.

    Its own choice is the system's temporary folder, which may be emptied any day. What the user has
    set stays. Has to be called before something is compiled.
    """
    try:
        folder = user_cache() / "fpn-feature-codecs" / "inductor"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # cannot be written; a user without a home
        return
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")  # not every version's default


def _why_not(device: str) -> str | None:
    """Compile next to nothing; return the first line of what went wrong, or None."""
    keep_compiled_code()
    try:
        torch.compile(_next_to_nothing)(torch.ones(2, device=device))
    # The compiler, Triton and the system have errors of any kind, and auto may go without.
    except Exception as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _next_to_nothing(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1
