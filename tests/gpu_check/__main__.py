"""Run every section until the time is up; the results are whole at any moment."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.gpu_check.run_sections import run_sections
from tests.gpu_check.sections import SECTIONS
from tests.gpu_check.settings import settings_of

SCRATCH = Path("gpu-check")


def main() -> None:
    """Exit with 1 if a check failed; a goal that is missed is told."""
    begun = time.monotonic()
    try:
        settings = settings_of()
    except ValueError as error:
        sys.exit(f"error: {error}")
    results = run_sections(settings, SECTIONS, SCRATCH, begun)
    print(f"\n{results.summary()}\n-> {settings.out}", flush=True)
    sys.exit(1 if results.failed else 0)


if __name__ == "__main__":
    main()
