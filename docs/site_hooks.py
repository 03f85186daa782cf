"""What MkDocs does beside its plugins: see `hooks` in mkdocs.yml.

A page's line `::: door data` becomes the documentation of all public names of `data` (or of those
that follow), each found where it is defined; `::: options train-level` the command's options, from
click; `::: rooms` the table of rooms, from their docstrings. A page of the site that would load
something from another machine is an error.
"""

from __future__ import annotations

import ast
import configparser
import html
import importlib
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.exceptions import PluginError
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
HOUSES = ("configs", "data", "extract", "train", "analyze")

_DOOR = re.compile(r"^::: door (?P<module>[\w.]+)(?P<names>(?: \w+)*)$", re.MULTILINE)
_OPTIONS = re.compile(r"^::: options (?P<command>[\w-]+)$", re.MULTILINE)
_LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]+src=[\"']?(https?:[^\"' >]+)"
    r"|<link[^>]+rel=[\"']?(?:stylesheet|preconnect)[\"']?[^>]+href=[\"']?(https?:[^\"' >]+)"
    r"|url\([\"']?(https?:[^\"')]+)"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Expand our lines."""
    shown: set[str] = set()  # two houses may hand out the same function
    markdown = _DOOR.sub(
        lambda line: _documented(line["module"], line["names"].split(), shown), markdown
    )
    markdown = _OPTIONS.sub(lambda line: options_table(line["command"]), markdown)
    return markdown.replace("::: rooms\n", rooms_table())


def on_post_build(config: Any) -> None:
    """Refuse a site that is not whole by itself."""
    site = Path(config["site_dir"])
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for found in _LOADED.finditer(path.read_text(encoding="utf-8")):
            url = next(group for group in found.groups() if group)
            raise PluginError(
                f"{path.relative_to(site)} loads {url}: the site must be whole offline"
            )


def _documented(name: str, wanted: list[str], shown: set[str]) -> str:
    """Return mkdocstrings' lines for names of a module, by the places where they are defined."""
    module = importlib.import_module(name)
    lines = []
    for each in wanted or module.__all__:
        value = getattr(module, each)
        place = f"{value.__module__}.{value.__qualname__}"
        if place in shown:
            continue
        shown.add(place)
        lines.append(f"::: {place}")
        if isinstance(value, type) and issubclass(value, BaseModel):  # values are the defaults
            lines.append("    options: {show_attribute_values: true, show_if_no_docstring: true}")
        lines.append("")
    return "\n".join(lines)


def options_table(name: str) -> str:
    """Return the usage line of a command and a table of its options."""
    command = _command(name)
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    rows = ["| option | meaning |", "|---|---|"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            option, meaning = (_in_a_cell(text) for text in record)
            rows.append(f"| <code>{option}</code> | {meaning} |")
    return "\n".join(["```text", usage, "```", "", *rows])


def _in_a_cell(text: str) -> str:
    """Return a text of which Markdown takes no sign for its own."""
    text = html.escape(" ".join(text.split()), quote=False)
    return text.replace("|", "&#124;").replace("[", "&#91;").replace("_", "&#95;")


def _command(name: str) -> click.Command:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    scripts = parser["options.entry_points"]["console_scripts"].strip().splitlines()
    targets = dict(line.replace(" ", "").split("=") for line in scripts)
    module, function = targets[name].split(":")
    command = getattr(importlib.import_module(module), function)
    assert isinstance(command, click.Command)
    return command


def rooms_table() -> str:
    """Return each room with what its docstring says: what it is for, what it may import."""
    rows = ["| room | what it is for | may import |", "|---|---|---|"]
    for house in HOUSES:
        for path in sorted((ROOT / house).rglob("__init__.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            purpose, _, imports = docstring.partition("May import: ")
            room = path.parent.relative_to(ROOT)
            told = (" ".join(text.split()).rstrip(".") for text in (purpose, imports))
            rows.append(f"| `{room}` | {' | '.join(told)} |")
    return "\n".join(rows) + "\n"
