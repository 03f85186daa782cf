"""Options for several machines: Ray's, and those that only foretell what nodes would take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click

from configs.errors import ConfigError
from configs.options import Command


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
