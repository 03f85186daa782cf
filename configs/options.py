"""Options that all commands share, and the one place where a user's mistake becomes one line."""

from __future__ import annotations

import functools
import io
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from configs.errors import ConfigError, UserError, lack_of_memory
from configs.log_setup import LOG_LEVELS
from configs.schema.folder_names import path_component

Command = TypeVar("Command", bound=Callable[..., Any])


def split_name(
    context: click.Context, parameter: click.Parameter, value: str | tuple[str, ...] | None
) -> str | tuple[str, ...] | None:
    """Return the value of --split, as its callback; a usage error if it cannot name a folder."""
    for name in (value,) if isinstance(value, str) else value or ():
        try:
            path_component(name)
        except ValueError as error:
            raise click.BadParameter(f"{name!r}: {error}", context, parameter) from None
    return value


def common_options(command: Command) -> Command:
    """Add --config, --set, --device and --log-level."""
    command = machine_options(command)
    for option in reversed(
        (
            click.option(
                "--config", metavar="FILE[,FILE...]",
                help="YAML file or packaged name; later ones override; default: built-in.",
            ),
            click.option(
                "--set", "overrides", multiple=True, metavar="KEY=VALUE",
                help="Override one setting, e.g. training.batch_size=16 (repeatable).",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def machine_options(command: Command) -> Command:
    """Add --device and --log-level."""
    for option in reversed(
        (
            click.option(
                "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
            ),
            click.option(
                "--log-level", type=click.Choice(LOG_LEVELS, case_sensitive=False),
                default="info", show_default=True, help="How much to tell.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def trust_code_option(command: Command) -> Command:
    """Add --trust-code, for commands that read runs which others may have made."""
    return click.option(
        "--trust-code", is_flag=True,
        help="Run the code (package.module:name) that runs and checkpoints alone name.",
    )(command)  # fmt: skip


def features_option(command: Command) -> Command:
    """Add --features, the folder of the caches."""
    return click.option(
        "--features", metavar="DIR",
        help="Folder that holds the splits' caches; default: features/<data.name>.",
    )(command)  # fmt: skip


def local_cache_option(command: Command) -> Command:
    """Add --local-cache, the folder for copies of what lies in object stores."""
    return click.option(
        "--local-cache", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
        help="Folder for copies of what lies at URLs; default: ~/.cache/fpn-feature-codecs.",
    )(command)  # fmt: skip


def ray_option(what: str) -> Callable[[Command], Command]:
    """Return what adds --ray; `what` says what is computed there. The value: None, or an address.

    Without a value it is "auto".
    """
    return click.option(
        "--ray", "ray_address", is_flag=False, flag_value="auto", metavar="[HOST:PORT]",
        help=f"{what} on the Ray cluster there; without an address: on one that runs on this "
        "machine, or one started for it.",
    )  # fmt: skip


def ray_tasks_option(what: str) -> Callable[[Command], Command]:
    """Return what adds --ray, --ray-cpus and --ray-gpus, for what is computed in many tasks."""

    def add(command: Command) -> Command:
        # A task that takes no core at all would begin at once with all others.
        for option in (
            click.option(
                "--ray-gpus", type=click.FloatRange(min=0), metavar="N",
                help="GPUs that each task on Ray takes, e.g. 0.25; default: 1 if there are any.",
            ),
            click.option(
                "--ray-cpus", type=click.FloatRange(min=0, min_open=True), metavar="N",
                help="CPUs that each task on Ray takes; default: 1.",
            ),
            ray_option(what),
        ):  # fmt: skip
            command = option(command)
        return command

    return add


def check_ray_options(
    address: str | None, *, needing_it: Mapping[str, object], never_with_it: Mapping[str, object]
) -> None:
    """Raise ConfigError for an option (name -> its value) that contradicts --ray, or its lack."""
    for name, value in (needing_it if address is None else never_with_it).items():
        if value:
            raise ConfigError(
                f"{name}: is of workers on a cluster: add --ray"
                if address is None
                else f"{name}: is done on this machine alone: leave out --ray"
            )


def nodes_option(command: Command) -> Command:
    """Add --nodes, for what is only foretold."""
    return click.option(
        "--nodes", "num_nodes", type=click.IntRange(1), metavar="N",
        help="With --dry-run: what it would take on N nodes like this one.",
    )(command)  # fmt: skip


def refuse_nodes_in_earnest(num_nodes: int | None, dry_run: bool) -> None:
    """Raise ConfigError if --nodes is given without --dry-run."""
    if num_nodes is not None and not dry_run:
        raise ConfigError("--nodes: only foretells: use it with --dry-run")


def training_splits(val_help: str) -> Callable[[Command], Command]:
    """Return what adds --split and --val-split; `val_help` says what the latter is for."""

    def add(command: Command) -> Command:
        command = click.option(
            "--val-split", callback=split_name, default="val", show_default=True, help=val_help
        )(command)
        return click.option(
            "--split", callback=split_name, default="train", show_default=True,
            help="Split to learn from.",
        )(command)  # fmt: skip

    return add


def detection_checkpoint_option(command: Command) -> Command:
    """Add --detection-checkpoint, which overrides detector.checkpoint."""
    return click.option(
        "--detection-checkpoint", "--detection_checkpoint", "detection_checkpoint", metavar="FILE",
        help="Detector weights; overrides detector.checkpoint.",
    )(command)  # fmt: skip


def with_detection_checkpoint(overrides: tuple[str, ...], path: str | None) -> tuple[str, ...]:
    """Return the overrides that --detection-checkpoint stands for."""
    if path is None:
        return overrides
    return (*overrides, f"detector.checkpoint={json.dumps(path)}", "detector.weights=null")


class _Terminated(SystemExit):
    """SIGTERM came: as an exception, so that temporary folders go, and files are closed."""


@contextmanager
def _tidy_at_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `_Terminated`, once; who has a better way to stop replaces that."""
    is_ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not is_ours:
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one acts at once
        raise _Terminated(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_command(function: Command) -> Command:
    """Turn UserError into a line on stderr and its exit code, and a lack of memory into a line.

    Other errors keep their traceback. SIGTERM ends a command in order: what is temporary goes, what
    is whole stays.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _escape_what_cannot_be_shown()
        try:
            with _tidy_at_sigterm():
                return function(*args, **kwargs)
        except _Terminated:
            click.echo("Error: stopped by SIGTERM: the same command goes on from there", err=True)
            raise
        except UserError as error:
            shown = click.ClickException(" ".join(str(error).split()))
            shown.exit_code = error.exit_code  # type: ignore[misc]
            raise shown from error
        except (MemoryError, RuntimeError) as error:
            if (lack := lack_of_memory(error)) is None:
                raise
            raise click.ClickException(
                "out of memory: an image is worked on for each core: OMP_NUM_THREADS=1 takes one "
                f"at a time; on a GPU try --device cpu: {lack}"
            ) from error

    return wrapper  # type: ignore[return-value]


def _escape_what_cannot_be_shown() -> None:
    """Show what the terminal's encoding lacks as `\\udcff`: a name on a disk may be no UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def choose_device(name: str) -> str:
    """Return a torch device name; raises ConfigError if this machine does not have it."""
    kind, _, number = name.partition(":")
    if name != "auto" and (kind not in ("cpu", "cuda") or (number and not number.isdigit())):
        raise ConfigError(f"--device {name}: use auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return kind

    import torch  # seconds, which --help and a run on the CPU alone need not wait here

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices: use cpu"
        )
    return name


def num_devices(name: str) -> int:
    """Return how many devices of the chosen kind this machine has; of a CPU's cores, one."""
    if choose_device(name) == "cpu":
        return 1

    import torch

    return torch.cuda.device_count()
