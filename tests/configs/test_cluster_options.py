"""Options of a cluster are refused where they cannot mean anything."""

from __future__ import annotations

import pytest
from click import Command
from click.testing import CliRunner

from extract.cli import extract_features
from train.cli import train_level

NEEDED = {extract_features: ["--split", "train"], train_level: ["--level", "0"]}


@pytest.mark.parametrize("command", NEEDED, ids=lambda command: command.name)
def test_nodes_are_for_what_is_only_foretold(command: Command) -> None:
    result = CliRunner().invoke(command, [*NEEDED[command], "--nodes", "2"])
    assert result.exit_code == 1
    assert "--nodes: only foretells: use it with --dry-run" in result.output
