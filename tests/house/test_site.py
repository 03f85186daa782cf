"""What is generated as the site is built; `make docs` builds it, with warnings as errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.pages import ROOT, command_of, console_scripts


def docs_script(name: str) -> ModuleType:
    """Import a script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="of the extra [docs]")
    return docs_script("site_hooks")


@pytest.mark.parametrize("name", console_scripts())
def test_table_of_a_command_has_each_of_its_options(hooks: ModuleType, name: str) -> None:
    rows = [row for row in hooks.options_table(name).splitlines() if row.startswith("| <code>--")]
    options = [parameter.opts[0] for parameter in command_of(name).params]
    options = [option.replace("_", "&#95;") for option in options if option.startswith("--")]
    assert len(rows) == len(options) + 1  # --help
    for option in options:
        assert any(f"<code>{option}" in row for row in rows)
    assert all(row.count("|") == 3 for row in rows)


def test_table_of_rooms_has_each_room(hooks: ModuleType) -> None:
    table = hooks.rooms_table()
    for room in ("data/cache", "train/codecs/entropy", "analyze/report"):
        assert f"| `{room}` |" in table
    assert all(row.count("|") == 4 for row in table.splitlines())


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://example.org/a.js"></script>',
        "<link rel=stylesheet href=https://example.org/a.css>",
        "<style>a {background: url(https://example.org/a.png)}</style>",
        '<img alt="" src="https://example.org/a.png">',
    ],
)
def test_site_that_would_load_from_another_machine_is_refused(
    hooks: ModuleType, page: str, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text('<a href="https://example.org">out</a>', encoding="utf-8")
    hooks.on_post_build({"site_dir": tmp_path})
    (tmp_path / "other.html").write_text(page, encoding="utf-8")
    with pytest.raises(Exception, match=r"^other\.html loads https://example\.org"):
        hooks.on_post_build({"site_dir": tmp_path})


def test_notebook_has_the_pages_blocks_as_cells() -> None:
    pytest.importorskip("nbformat", reason="of the extra [docs]")
    page = (
        "# T\n\n```python\na = 1\n```\n\n```text\n1\n```\n\n"
        '```yaml title="b.yaml"\nc: 1\n```\n\n```bash\nls\n```\n'
    )
    cells = list(docs_script("notebook").cells_of(page))
    assert [(cell.cell_type, cell.source) for cell in cells] == [
        ("markdown", "# T"),
        ("code", "a = 1"),
        ("markdown", "```text\n1\n```"),
        ("code", "%%writefile b.yaml\nc: 1"),
        ("code", "%%bash\nset -e\nls"),
    ]
