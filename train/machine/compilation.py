"""Whether training compiles what it computes, and where the compiled code is kept.

`training.compile: auto` goes by the device and the length of the run, not by a stop-watch, so that
the runs of one study are computed alike.
"""

from __future__ import annotations

import logging
import os

import torch

from data.system.user_cache import user_cache

log = logging.getLogger(__name__)

# Default codec, batches of 32 crops of 64x64, H100: forward and backward took 3.0 ms of the GPU
# instead of 4.6. A slower GPU gains more; coarse levels, by fewer kernels, too: both are left out.
_SAVED_S_PER_POSITION = 1.6e-3 / (32 * 64 * 64)
# Measured there: 27 s. Batches of a second shape, as an epoch's last one often is, take as long.
_COMPILE_S = 2 * 27.0


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
