"""Options that all commands share, and the one place where a user's mistake becomes one line."""

from __future__ import annotations

import functools
import io
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import click

from configs.errors import ConfigError, UserError, lack_of_memory
from configs.known_places import line_of
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


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesPlace:
    """Where the caches are: a folder or a URL, as given, and what of a URL's may lie here."""

    given: str | None
    local_cache: str | None
    """Folder for copies of what is remote; None: the usual one."""
    local_cache_gb: float


def features_option(command: Command) -> Command:
    """Add --features, the folder of the caches, and what goes with a URL: one FeaturesPlace."""
    text = (
        "Folder or URL (s3://, gs://, az://) of the splits' caches; default: features/<data.name>."
    )
    return _with_features(command, click.option("--features", metavar="DIR", help=text))


def required_features_option(command: Command) -> Command:
    """Add the same where there is no configuration that could say where they are."""
    text = "Folder or URL (s3://, gs://, az://) of the splits' caches."
    option = click.option("--features", required=True, metavar="DIR", help=text)
    return _with_features(command, option)


def local_cache_option(command: Command) -> Command:
    """Add --local-cache, the folder for copies of what is remote."""
    return click.option(
        "--local-cache", metavar="DIR",
        help="With a URL: folder for what is read and written; default: fpn-feature-codecs in "
        "$XDG_CACHE_HOME or ~/.cache.",
    )(command)  # fmt: skip


def _with_features(command: Command, features: Callable[[Command], Command]) -> Command:
    for option in reversed(
        (
            features,
            local_cache_option,
            click.option(
                "--local-cache-gb", type=click.FloatRange(min=0, min_open=True), default=50.0,
                show_default=True, metavar="N", help="How much may lie there.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


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
    is whole stays. What `features_option` adds comes as one FeaturesPlace.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _escape_what_cannot_be_shown()
        if "local_cache_gb" in kwargs:
            kwargs["features"] = FeaturesPlace(
                given=kwargs["features"],
                local_cache=kwargs.pop("local_cache"),
                local_cache_gb=kwargs.pop("local_cache_gb"),
            )
        try:
            with _tidy_at_sigterm():
                return function(*args, **kwargs)
        except _Terminated:
            click.echo("Error: stopped by SIGTERM: the same command goes on from there", err=True)
            raise
        except UserError as error:
            shown = click.ClickException(line_of(error))
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
