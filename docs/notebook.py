"""Make a notebook of a page, run it in an empty folder, and write it with what its cells printed.

    python docs/notebook.py docs/tutorial.md site/tutorial.ipynb

Python blocks become cells, `bash` blocks cells of the shell, and a YAML block with a title a file
of that name; all else is text. A cell that fails is an error.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import v4

FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
MAGIC = {"python": "", "bash": "%%bash\nset -e\n"}


def cells_of(page: str) -> Iterator[Any]:
    """Yield the page's cells in order."""
    end, text = 0, ""
    for fence in FENCE.finditer(page):
        language, title, code = fence.groups()
        magic = f"%%writefile {title}\n" if title else MAGIC.get(language)
        text += page[end : fence.start() if magic is not None else fence.end()]
        end = fence.end()
        if magic is not None:
            if text.strip():
                yield v4.new_markdown_cell(text.strip())
            yield v4.new_code_cell(magic + code.rstrip("\n"))
            text = ""
    if rest := (text + page[end:]).strip():
        yield v4.new_markdown_cell(rest)


def main(page: Path, target: Path) -> None:
    """Run the page's notebook; raises CellExecutionError with the cell that failed."""
    notebook = v4.new_notebook(cells=list(cells_of(page.read_text(encoding="utf-8"))))
    # The commands and the packages are those of this very environment.
    bin_folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join((bin_folder, os.environ["PATH"]))
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute()
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
