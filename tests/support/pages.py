"""The pages of the documentation: their blocks of code, and the commands that they show."""

from __future__ import annotations

import configparser
import importlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SCRIPT = "run_train_factorized_prior_specific_level_fpn.sh"

_FENCE = re.compile(
    r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE
)
_INLINE = re.compile(r"(?<!`)`((?:extract|train|analyze|compress|decompress)-[a-z]+ [^`]*--[^`]+)`")
_TORCHRUN = ("torchrun", "--no-python", "--nproc-per-node")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A block of code. `language` is empty in the README's shell blocks; `title` names a file."""

    language: str
    title: str
    code: str


def blocks_of(page: Path, *languages: str) -> list[Block]:
    """Return a page's blocks of these languages, in order."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [
        Block(language=language, title=title, code=code)
        for language, title, code in found
        if language in languages
    ]


def prose_of(page: Path) -> str:
    """Return a page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def console_scripts() -> dict[str, str]:
    """Return the six commands, each with its `module:function`."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = parser["options.entry_points"]["console_scripts"].strip().splitlines()
    return {name.strip(): target.strip() for name, target in (line.split("=") for line in lines)}


def command_of(name: str) -> click.Command:
    """Return a command by the name of its script."""
    module, function = console_scripts()[name].split(":")
    command = getattr(importlib.import_module(module), function)
    assert isinstance(command, click.Command)
    return command


def commands_shown(page: Path) -> list[list[str]]:
    """Return every use of our commands, as words: in shell blocks, and inline with options."""
    lines = [
        line for block in blocks_of(page, "", "bash") for line in block.code.strip().splitlines()
    ]
    inline = [" ".join(line.split()) for line in _INLINE.findall(prose_of(page))]
    found = [_words(line) for line in [*lines, *inline] if not line.strip().startswith("#")]
    ours = (*console_scripts(), SCRIPT)
    return [words for words in found if words and words[0].removeprefix("./") in ours]


def _words(line: str) -> list[str]:
    words = shlex.split(line.strip().removeprefix("exec ").rstrip("&\\"))
    if words[:3] == list(_TORCHRUN):
        words = words[4:]
    return words
