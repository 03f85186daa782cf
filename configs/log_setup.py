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
