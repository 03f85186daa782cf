"""Who is to blame where a file of this machine cannot be read or written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import MachineError
from data.places.object_store import is_url


@contextmanager
def disk_told(folder: Path) -> Iterator[None]:
    """Raise MachineError for what the disk refuses; an object that is missing passes as it is."""
    try:
        yield
    except FileNotFoundError as error:
        if is_url(error.filename):
            raise
        raise MachineError(
            f"{error.filename or folder}: went away while it was in use: run the same command again"
        ) from error
    except OSError as error:
        raise MachineError(
            f"{error.filename or folder}: cannot be read or written ({error.strerror or error}): "
            "make room, or choose another --local-cache"
        ) from error
