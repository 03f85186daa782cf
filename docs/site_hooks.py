"""What MkDocs does beside its plugins: see `hooks` in mkdocs.yml.

A page's line `::: door data LevelStream ...` becomes the documentation of these public names, each
found where it is defined; `::: rooms` the table of rooms, from their docstrings. A page of the site
that would load something from another machine is an error.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]
HOUSES = ("configs", "data", "extract", "train", "analyze")

_DOOR = re.compile(r"^::: door (?P<module>[\w.]+)(?P<names>(?: \w+)*)$", re.MULTILINE)
_LOADED = re.compile(r"<(?:script|img|iframe)[^>]+src=\"?(https?:[^\" >]+)"
                     r"|<link[^>]+rel=\"?(?:stylesheet|preconnect)\"?[^>]+href=\"?(https?:[^\" >]+)"
                     r"|url\(\"?(https?:[^\")]+)")  # fmt: skip


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Expand our two lines."""
    markdown = _DOOR.sub(lambda line: _documented(line["module"], line["names"].split()), markdown)
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


def _documented(module: str, names: list[str]) -> str:
    """Return mkdocstrings' lines for names of a module, by the places where they are defined."""
    lines = []
    for name in names:
        value = getattr(importlib.import_module(module), name)
        lines.append(f"### {module}.{name}\n\n::: {value.__module__}.{value.__qualname__}\n")
    return "\n".join(lines)


def rooms_table() -> str:
    """Return each room with what its docstring says: what it is for, what it may import."""
    rows = ["| room | what it is for | may import |", "|---|---|---|"]
    for house in HOUSES:
        for path in sorted((ROOT / house).rglob("__init__.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            purpose, _, imports = docstring.partition("May import: ")
            room = path.parent.relative_to(ROOT)
            rows.append(f"| `{room}` | {' '.join(purpose.split())} | {' '.join(imports.split())} |")
    return "\n".join(rows) + "\n"
