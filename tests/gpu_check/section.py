"""Run one section, in this process: `python -m tests.gpu_check.section NAME SCRATCH FILE`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tests.gpu_check.findings import Findings
from tests.gpu_check.sections import SECTIONS
from tests.gpu_check.settings import settings_of


def main(name: str, scratch: str, file: str) -> None:
    """Find out what the section is about; findings are added to the file."""
    section = next(each for each in SECTIONS if each.name == name)
    module = importlib.import_module(section.module)
    module.run(settings_of(), Path(scratch), Findings(file=Path(file)), *section.arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
