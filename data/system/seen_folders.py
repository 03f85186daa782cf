"""What a node of a cluster sees of the command's folders."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import ConfigError


def enter_folder(folder: str) -> None:
    """Work in the folder in which the command was called; ConfigError if this node has none."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(
            f"--ray: the node {socket.gethostname()} cannot enter the folder {folder} "
            f"({error.strerror}): run the command in a folder that all nodes have"
        ) from error


@contextmanager
def signed(folder: Path) -> Iterator[Path]:
    """Have a new file in a folder meanwhile; who finds it sees this folder, and not one like it.

    If this process is killed it stays, and goes with what else `remove_leftovers` removes.
    """
    sign = folder / f"seen.{secrets.token_hex(6)}.part"
    sign.touch(exist_ok=False)
    try:
        yield sign
    finally:
        sign.unlink(missing_ok=True)


def is_seen(sign: str) -> bool:
    """Say whether this process could write what lies beside a file of `signed`."""
    return os.access(sign, os.R_OK | os.W_OK)
