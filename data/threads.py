"""Background threads that leave the cores to the computation they serve."""

from __future__ import annotations

import torch


def limit_cores(num_cores: int) -> None:
    """Let torch use so many cores in the calling thread; call it at a thread's start.

    Otherwise each thread that touches a tensor gets a team of workers as large as the machine, and
    the teams of the main and the background thread fight for the same cores.
    """
    torch.set_num_threads(num_cores)


def keep_default() -> None:
    """Undo `limit_cores` for threads still to be started; call it in the main thread."""
    torch.set_num_threads(torch.get_num_threads())
