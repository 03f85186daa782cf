"""How all commands, and the processes they start, log."""

from __future__ import annotations

import logging
import sys

LOG_LEVELS = ("debug", "info", "warning", "error")


def setup_logging(level: str) -> None:
    """Log to stderr, one line per message."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, force=True,
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S",
    )  # fmt: skip
    for noisy in ("matplotlib", "PIL", "torch", "h5py", "fsspec", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def bar_interval_s() -> float:
    """Return how often a progress bar may write: rarely into a file, which keeps every line."""
    return 0.5 if sys.stderr.isatty() else 30.0
