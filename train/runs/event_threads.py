"""The thread that writes TensorBoard's file: what stops it is told once."""

from __future__ import annotations

import threading


def quiet_event_threads() -> None:
    """Print no traceback of such a thread: it would stand beside the line that is for the user.

    TensorBoard raises the thread's error again where the next event is added.
    """
    tell = threading.excepthook
    if getattr(tell, "__module__", None) == __name__:
        return

    def told(arguments: threading.ExceptHookArgs) -> None:
        is_raised_again = type(arguments.thread).__name__ == "_AsyncWriterThread" and isinstance(
            arguments.exc_value, OSError
        )
        if not is_raised_again:
            tell(arguments)

    threading.excepthook = told
