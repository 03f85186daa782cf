"""`make fuzz`: alter each kind of file many times, and say what came of it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tests.fuzzing.campaign import campaign, table
from tests.fuzzing.kinds import KINDS


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(list(KINDS)))
@click.option("--files", default=10_000, show_default=True, help="Altered files of each kind.")
@click.option("--seed", default=0, show_default=True, help="Another one alters them otherwise.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default="fuzz", show_default=True,
    help="New folder, in which files that make faults are left.",
)  # fmt: skip
def main(kinds: tuple[str, ...], files: int, seed: int, folder: Path) -> None:
    """Alter each of these KINDS of files, or all."""
    folder.mkdir()
    is_sound = True
    for name in kinds or KINDS:
        outcomes = campaign(folder, files, [name], first_seed=seed)
        print(table(outcomes), flush=True)
        for fault, times in outcomes[name].faults.most_common():
            is_sound = False
            print(f"{times} times: {fault}", flush=True)
    sys.exit(0 if is_sound else 1)


if __name__ == "__main__":
    main()
