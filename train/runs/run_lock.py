"""A run folder belongs to one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from configs.errors import ConfigError, UserError
from data.system.atomic_files import remove_leftovers
from data.system.locks import held

LOCK_NAME = "training.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; raises UserError if another one trains in it.

    The system lets go of the lock when a process dies, however it does.
    """
    path = folder / LOCK_NAME
    with ExitStack() as stack:
        try:
            stack.enter_context(held(path))
        except BlockingIOError:
            raise UserError(
                f"{folder}: another process trains this run: wait for it, "
                "or start a new one with --resume never"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be locked ({error.strerror}): choose another --out"
            ) from error
        remove_leftovers(folder)
        yield
