"""The README is a front step: short, and what it shows first is there."""

from __future__ import annotations

import re
import subprocess

import pytest
from click.testing import CliRunner

from tests.support.pages import PAGES, ROOT, SCRIPT, command_of, commands_shown, console_scripts

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


def test_readme_opens_with_a_picture_two_sentences_then_quickstart_and_test() -> None:
    title, picture, said, first_block = README.split("\n\n")[:4]
    assert title == "# fpn-feature-codecs"
    assert re.fullmatch(r"!\[[^\]]+\]\(docs/report\.png\)", picture)
    assert said.count(".") == 2
    assert first_block == "```\nmake quickstart\nmake test\n```"


@pytest.mark.parametrize(
    "target",
    sorted(
        {
            target
            for page in PAGES
            for target in re.findall(
                r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M
            )
        }
    ),
)
def test_make_target_that_a_page_names_exists(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["extract-features", "train-level", "analyze-levels"])
def test_readme_shows_the_command(name: str) -> None:
    assert any(words[0] == name for words in commands_shown(ROOT / "README.md"))


@pytest.mark.parametrize("name", console_scripts())
def test_command_answers_help(name: str) -> None:
    result = CliRunner().invoke(command_of(name), ["--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Usage:")


def test_script_refuses_a_missing_or_wrong_level_in_one_line() -> None:
    for arguments, message in (
        ([], "error: --level is required: 0, 1, 2, 3 or 4\n"),
        (["--level", "5"], "error: --level 5: must be 0, 1, 2, 3 or 4\n"),
        (["--level"], "error: --level needs a value\n"),
        (["--level", "0", "--colour"], "error: unknown option '--colour': see --help\n"),
    ):
        result = subprocess.run([ROOT / SCRIPT, *arguments], capture_output=True)
        assert (result.returncode, result.stderr.decode()) == (2, message)
