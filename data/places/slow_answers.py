"""A line where a store is waited for, long before it is given up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LOG = logging.getLogger(__name__)

PATIENCE_S = 15.0
"""How long is waited without a word; and how long after one before there is another."""


class SlowAnswers:
    """Tells of requests that have been under way for long, of any thread; one thread watches."""

    def __init__(self) -> None:
        self._since: dict[int, tuple[float, str]] = {}
        self._watch: threading.Thread | None = None

    @contextmanager
    def watched(self, place: str) -> Iterator[None]:
        """Watch what is asked of a place meanwhile."""
        if self._watch is None or not self._watch.is_alive():  # a fork has none
            self._begin()
        key = threading.get_ident()
        self._since[key] = time.monotonic(), place
        try:
            yield
        finally:
            self._since.pop(key, None)

    def _begin(self) -> None:
        # What others had asked in the process that this one was forked from is none of its own.
        self._since = {}
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def _look(self) -> None:
        while True:
            time.sleep(PATIENCE_S / 3)
            waiting = list(self._since.copy().values())
            if not waiting:
                continue
            begun, place = min(waiting)
            waited_s = time.monotonic() - begun
            if waited_s >= PATIENCE_S:
                _LOG.warning(
                    "%s: no answer for %.0f s: the store is slow, or out of reach; it is asked "
                    "again and again",
                    place, waited_s,
                )  # fmt: skip
                time.sleep(PATIENCE_S)
