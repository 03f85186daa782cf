"""Commands for a PATH that are forks of our server: what starts them does not wait for imports."""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from tests.benchmarks.startup import COMMANDS
from tests.support.forked import start

# What it is asked for comes from the test's process, by whose server it is done.
_ASKING = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect({address!r})
    asked.sendall(json.dumps([os.getpid(), os.getcwd(), {command!r}, sys.argv[1:]]).encode())
    asked.shutdown(socket.SHUT_WR)
    sys.exit(int(asked.recv(100)))
"""


@contextmanager
def forked_commands(folder: Path) -> Iterator[Path]:
    """Yield a folder of all commands, which say and return what the installed ones do."""
    with socket.socket(socket.AF_UNIX) as listening, ThreadPoolExecutor() as pool:
        listening.bind(str(folder / "asked"))
        listening.listen()
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for command in COMMANDS:
            script = bin_folder / command
            script.write_text(
                _ASKING.format(
                    python=sys.executable, address=listening.getsockname(), command=command
                )
            )
            script.chmod(0o755)
        pool.submit(_answer_all, listening, pool)
        yield bin_folder
        listening.shutdown(socket.SHUT_RDWR)  # which ends what accepts


def _answer_all(listening: socket.socket, pool: ThreadPoolExecutor) -> None:
    while True:
        try:
            asking, _ = listening.accept()
        except OSError:
            return
        pool.submit(_answer, asking)


def _answer(asking: socket.socket) -> None:
    with asking:
        process = start(_run, *json.loads(asking.makefile().read()))
        process.join()
        asking.sendall(f"{process.exitcode}".encode())


def _run(asking: int, folder: str, command: str, arguments: Sequence[str]) -> None:
    for stream in (1, 2):
        os.dup2(os.open(f"/proc/{asking}/fd/{stream}", os.O_WRONLY), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
    os.chdir(folder)
    torch.set_num_threads(1)
    module, function = COMMANDS[command].split(":")
    getattr(importlib.import_module(module), function)(list(arguments), prog_name=command)
