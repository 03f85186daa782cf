"""Run every section until the time is up; the results are whole at any moment."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.gpu_check.findings import Findings
from tests.gpu_check.processes import run_until
from tests.gpu_check.results import Results, SectionResult
from tests.gpu_check.sections import SECTIONS, Section
from tests.gpu_check.settings import DEFAULT_S, Settings, settings_of

_LEAST_S = 5.0  # a process that may only load torch finds nothing
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Exit with 1 if a check failed; a goal that is missed is told."""
    begun = time.monotonic()
    try:
        settings = settings_of()
    except ValueError as error:
        sys.exit(f"error: {error}")
    results = run_sections(settings, SECTIONS, begun)
    print(f"\n{results.summary()}\n-> {settings.out}", flush=True)
    sys.exit(1 if results.failed else 0)


def run_sections(settings: Settings, sections: Sequence[Section], begun: float) -> Results:
    """Run sections, each in a process of its own; write results.json and summary.txt after each."""
    settings.out.mkdir(parents=True, exist_ok=True)
    log = settings.out / "sections.log"
    log.unlink(missing_ok=True)
    results = Results(settings)
    for section in sections:
        left = settings.seconds - (time.monotonic() - begun)
        print(f"\n---- {section.name}", flush=True)
        result = _run(settings, section, left, log)
        for line in result.lines():
            print(line, flush=True)
        results.add(result)
        results.write(time.monotonic() - begun)
    return results


def _run(settings: Settings, section: Section, left: float, log: Path) -> SectionResult:
    if left < _LEAST_S:
        return SectionResult.not_reached(section.name)
    limit = section.limit_s * settings.seconds / DEFAULT_S
    file = settings.out / f"{section.name}.jsonl"
    file.unlink(missing_ok=True)
    with log.open("a", encoding="utf-8") as output:
        output.write(f"\n---- {section.name}\n")
    command = [sys.executable, "-m", "tests.gpu_check.section", section.name, str(file)]
    start = time.monotonic()
    code = run_until(command, min(limit, left), log, _environment())
    found = Findings(file=file).all()
    file.unlink(missing_ok=True)
    return SectionResult.ended(
        section.name, found, code, seconds=time.monotonic() - start,
        # Stopped by its own limit it hangs or is too slow; by the end of all, it had bad luck.
        limit_s=limit if limit <= left else None,
    )  # fmt: skip


def _environment() -> Mapping[str, str]:
    """Return this process' environment, with this project's code found from any folder."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


if __name__ == "__main__":
    main()
