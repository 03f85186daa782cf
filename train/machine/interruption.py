"""Stop between two steps when asked to: Ctrl-C, or SIGTERM on machines that may be taken away."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from configs.errors import UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterruptedError(UserError):
    """A run was stopped by a signal after it had saved its state."""

    def __init__(self, message: str, number: int) -> None:
        """Take the line for the user and the signal's number."""
        super().__init__(message)
        self.exit_code = 128 + number


class StopSignals:
    """While entered, the first signal is only noted in `received`; a second one acts as usual.

    `insistent`: so is every further one, for a process that may be told twice to stop once.
    """

    def __init__(self, *, insistent: bool = False) -> None:
        self.received: int | None = None
        self._insistent = insistent
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if not self._insistent:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
