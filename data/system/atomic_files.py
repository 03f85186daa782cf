"""Files that appear whole or not at all, and what of them survives a power cut."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_LEFT = re.compile(r"\.[0-9a-f]{12}\.part$")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that it appears whole or not at all, and survives a power cut.

    Several may write one path at once: each does so under a name of its own, and the last one
    stays. What a killed process leaves, `remove_leftovers` removes.
    """
    file, part = _locked_part(path)
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def encoded(text: str) -> bytes:
    """Return text as UTF-8; names in it that are none, as on many a disk, with `\\udcff`."""
    return text.encode("utf-8", "backslashreplace")


def _locked_part(path: Path) -> tuple[BinaryIO, Path]:
    while True:
        part = path.with_name(f"{path.name}.{secrets.token_hex(6)}.part")
        file = part.open("xb")
        with suppress(OSError):  # where there are no locks leftovers stay
            fcntl.flock(file, fcntl.LOCK_EX)
        if part.exists():
            return file, part
        file.close()  # who removes leftovers came before the lock


def copy_durably(path: Path, copy: Path) -> None:
    """Make a file's copy in the same folder, which appears whole or not at all.

    One at a time: what a killed process leaves the next one writes anew.
    """
    part = copy.with_name(f"{copy.name}.new")
    part.unlink(missing_ok=True)  # a link there would lead elsewhere
    shutil.copyfile(path, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(copy)
    sync_folder(copy.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed in `write_atomically` left in a folder, if anything.

    A file that somebody is writing is locked, and stays; so does all that cannot be removed.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if _LEFT.search(entry.name)]:
            with suppress(OSError), (folder / name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
