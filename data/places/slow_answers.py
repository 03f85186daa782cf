"""A line where a store is waited for, long before it is given up."""

from __future__ import annotations

import logging
import os
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
        self._begin_anew()
        # A fork has no thread, and what others had asked in its parent is none of its own.
        os.register_at_fork(after_in_child=self._begin_anew)

    @contextmanager
    def watched(self, place: str) -> Iterator[None]:
        """Watch what is asked of a place meanwhile."""
        if self._watch is None:
            self._start_watching()
        key = threading.get_ident()
        if key in self._since:  # asked while another is: the first request opens the store
            yield
            return
        self._since[key] = time.monotonic(), place
        try:
            yield
        finally:
            self._since.pop(key, None)

    def _begin_anew(self) -> None:
        self._since: dict[int, tuple[float, str]] = {}
        self._watch: threading.Thread | None = None
        self._lock = threading.Lock()

    def _start_watching(self) -> None:
        with self._lock:  # of many that ask first at once, one
            if self._watch is None:
                watch = threading.Thread(target=self._look, daemon=True)
                watch.start()
                self._watch = watch

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
