"""The README's commands and options exist: each is looked up in the command that it belongs to."""

from __future__ import annotations

import configparser
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = "run_train_factorized_prior_specific_level_fpn.sh"
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def console_scripts() -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = parser["options.entry_points"]["console_scripts"].strip().splitlines()
    return {name.strip(): target.strip() for name, target in (line.split("=") for line in lines)}


COMMANDS = console_scripts()


def command_of(name: str) -> click.Command:
    module, function = COMMANDS[name].split(":")
    command = getattr(importlib.import_module(module), function)
    assert isinstance(command, click.Command)
    return command


def options_of(name: str) -> set[str]:
    """Options of a console script (from click) or of the shell script (from its --help)."""
    if name in COMMANDS:
        parameters = [p for p in command_of(name).params if isinstance(p, click.Option)]
        return {"--help"} | {o for p in parameters for o in (*p.opts, *p.secondary_opts)}
    return set(OPTION.findall(script_help()))


def script_help() -> str:
    shown = subprocess.run([ROOT / SCRIPT, "--help"], check=True, capture_output=True)
    return shown.stdout.decode()


def shell_lines() -> list[str]:
    """Lines of the README's shell blocks (the fences that name no language)."""
    blocks = re.findall(r"^```\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def commands_shown() -> list[str]:
    """Every use of our commands: in shell blocks, and inline with options."""
    inline = re.findall(r"`((?:extract|train|analyze)-[a-z]+ --[^`]+)`", README)
    first_words = (*COMMANDS, f"./{SCRIPT}")
    return [line for line in [*shell_lines(), *inline] if line.split()[0] in first_words]


def section_of(title: str) -> str:
    return README.split(f"\n### {title}\n", 1)[1].split("\n#", 1)[0]


def test_readme_opens_with_three_lines_then_quickstart_then_test() -> None:
    lines = README.splitlines()
    assert lines[0].startswith("# ")
    assert [bool(line) for line in lines[1:6]] == [False, True, True, True, False]
    assert lines[6:10] == ["```", "make quickstart", "make test", "```"]


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"(?:^|`)make ([a-z]+)", README, flags=re.MULTILINE)))
)
def test_make_target_exists(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_shows_the_command_and_it_answers_help(name: str) -> None:
    assert any(line.split()[0] == name for line in commands_shown())
    result = CliRunner().invoke(command_of(name), ["--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Usage:")


@pytest.mark.parametrize("line", sorted(set(commands_shown())))
def test_options_of_a_shown_command_exist(line: str) -> None:
    words = shlex.split(line.rstrip("&"))
    used = {word for word in words if word.startswith("--")}
    assert used <= options_of(words[0].removeprefix("./"))


@pytest.mark.parametrize("name", ["extract-features", "train-level", "analyze-levels"])
def test_table_of_a_command_lists_exactly_its_options(name: str) -> None:
    rows = [row for row in section_of(name).splitlines() if row.startswith("|")]
    listed = {option for row in rows for option in OPTION.findall(row)}
    assert listed | {"--help", "--detection_checkpoint"} == options_of(name) | {
        "--help",
        "--detection_checkpoint",
    }


def test_each_option_that_the_readme_mentions_exists_somewhere() -> None:
    known = {option for name in (*COMMANDS, SCRIPT) for option in options_of(name)}
    of_torchrun = {"--no-python", "--nproc-per-node"}
    assert set(OPTION.findall(README)) <= known | of_torchrun


def test_each_file_that_the_readme_names_in_the_project_exists() -> None:
    named = re.findall(r"(?:configs|docs)/[\w.-]+\.(?:yaml|md)", README)
    assert named
    assert not [name for name in set(named) if not (ROOT / name).is_file()]


def test_readme_has_the_lines_that_users_copy() -> None:
    default = "configs/train_factorized_prior_specific_level_fpn.yaml"
    for line in (
        f"sed 's/lambda: 0.001/lambda: 0.0005/' {default} > temp_config.yaml",
        'grep "Best Validation Loss:" "$summary_file" | cut -d\' \' -f4',
        "find checkpoints/fpn_specific_level_compression_level_$level -name training_summary.txt"
        " -exec cat {} \\;",
    ):
        assert line in README


def test_script_refuses_a_missing_or_wrong_level_in_one_line() -> None:
    for arguments, message in (
        ([], "error: --level is required: 0, 1, 2, 3 or 4\n"),
        (["--level", "5"], "error: --level 5: must be 0, 1, 2, 3 or 4\n"),
        (["--level"], "error: --level needs a value\n"),
        (["--level", "0", "--colour"], "error: unknown option '--colour': see --help\n"),
    ):
        result = subprocess.run([ROOT / SCRIPT, *arguments], capture_output=True)
        assert (result.returncode, result.stderr.decode()) == (2, message)
