"""Run one section, in this process: `python -m tests.gpu_check.section NAME FILE`."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

from tests.gpu_check.findings import Findings
from tests.gpu_check.sections import SECTIONS
from tests.gpu_check.settings import settings_of

SCRATCH = Path("gpu-check")


def main(name: str, file: str) -> None:
    """Find out what the section is about; findings are added to the file."""
    section = next(each for each in SECTIONS if each.name == name)
    module = importlib.import_module(section.module)
    SCRATCH.mkdir(exist_ok=True)
    # Not the system's folder for temporary files: that may be memory, and writing needs a disk.
    with tempfile.TemporaryDirectory(prefix=f"scratch-{name}-", dir=SCRATCH) as scratch:
        module.run(
            settings_of(), Path(scratch).resolve(), Findings(file=Path(file)), *section.arguments
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
