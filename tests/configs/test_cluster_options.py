"""Options of a cluster are refused where they cannot mean anything."""

from __future__ import annotations

import pytest
from click import Command
from click.testing import CliRunner

from analyze.cli import analyze_levels
from extract.cli import extract_features
from train.cli import train_level

NEEDED = {extract_features: ["--split", "train"], train_level: ["--level", "0"], analyze_levels: []}
COMMANDS = list(NEEDED)


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: command.name)
def test_tasks_on_a_cluster_share_a_disk_and_no_url(command: Command) -> None:
    at_url = ["--ray", "--features", "s3://bucket/features"]
    result = CliRunner().invoke(command, [*NEEDED[command], *at_url])
    assert result.exit_code == 1
    line = result.output.splitlines()[-1]
    assert line.startswith("Error: what is at s3://bucket/features: is done on this machine alone")


@pytest.mark.parametrize("command", COMMANDS[:2], ids=lambda command: command.name)
def test_nodes_are_for_what_is_only_foretold(command: Command) -> None:
    result = CliRunner().invoke(command, [*NEEDED[command], "--nodes", "2"])
    assert result.exit_code == 1
    assert "--nodes: only foretells: use it with --dry-run" in result.output
