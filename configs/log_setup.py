"""How all commands, and the processes they start, log."""

from __future__ import annotations

import logging
import sys

from configs.known_places import told

LOG_LEVELS = ("debug", "info", "warning", "error")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return told(super().format(record))


def setup_logging(level: str) -> None:
    """Log to stderr, one line per message."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("matplotlib", "PIL", "torch", "h5py", "fsspec", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def bar_interval_s() -> float:
    """Return how often a progress bar may write: rarely into a file, which keeps every line."""
    return 0.5 if sys.stderr.isatty() else 30.0
