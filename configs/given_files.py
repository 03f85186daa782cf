"""Files that a stranger may have made: read if they are files, named inside their own folder."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from configs.errors import ConfigError


def regular(path: Path) -> Path:
    """Return the path of a file that is about to be read.

    Raises ConfigError if a device, a pipe or a socket lies there, or a link leads to one: it would
    have no end, or nothing to read ever. What is missing is told by who reads it.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return path
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ConfigError(
            f"{path}: is no file, but a device, a pipe or a socket, and is not read: put the file "
            "itself there"
        )
    return path


def is_file(path: Path) -> bool:
    """Say whether a file lies where a file says so; none does at a name too long for any.

    Raises OSError as `Path.is_file` does, which raises one for such a name, too.
    """
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def inside(folder: Path, name: str) -> Path:
    """Return the path of a name that stands in a file, and is to lie in `folder`.

    Raises ValueError if it leads out of it, by `..` or as the path of another place. Links inside
    the folder are its owner's, and are not looked at.
    """
    path = folder / name
    here, there = (Path(os.path.normpath(Path.cwd() / each)) for each in (folder, path))
    if not there.is_relative_to(here):
        raise ValueError(f"{name!r} leads out of {folder}")
    return path
