"""Sections one after another, each in a process of its own that is over when its time is."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.gpu_check.findings import Findings
from tests.gpu_check.processes import run_until
from tests.gpu_check.results import Results, SectionResult
from tests.gpu_check.sections import Section
from tests.gpu_check.settings import DEFAULT_S, Settings

_LEAST_S = 5.0  # a process that may only load torch finds nothing
_ROOT = Path(__file__).parents[2]


def run_sections(
    settings: Settings, sections: Sequence[Section], scratch: Path, begun: float
) -> Results:
    """Run sections; write results.json, summary.txt and sections.log after each.

    `scratch`: a folder in which each gets one of its own; `begun`: when time began to count, by
    time.monotonic(). On a CPU, where nothing is measured, two sections run at once.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    log = settings.out / "sections.log"
    log.unlink(missing_ok=True)
    results = Results(settings)
    with ThreadPoolExecutor(2 if settings.is_small else 1) as pool:
        for result in pool.map(lambda each: _run(settings, each, scratch, begun), sections):
            print(f"\n---- {result.name}", *result.lines(), sep="\n", flush=True)
            with log.open("a", encoding="utf-8") as output:
                output.write(f"\n---- {result.name}\n{result.log}")
            results.add(result)
            results.write(time.monotonic() - begun)
    return results


def _run(settings: Settings, section: Section, scratch: Path, begun: float) -> SectionResult:
    start = time.monotonic()
    left = settings.seconds - (start - begun)
    if left < _LEAST_S:
        return SectionResult(name=section.name, how="not reached")
    # Stopped by its own limit it hangs or is too slow; by the end of all, it had bad luck. A CPU is
    # slow, and has to get to the end.
    limit = left if settings.is_small else section.limit_s * settings.seconds / DEFAULT_S
    # Not the system's folder for temporary files: that may be memory, and writing needs a disk.
    with tempfile.TemporaryDirectory(prefix=f"scratch-{section.name}-", dir=scratch) as folder:
        file, log = Path(folder, "findings.jsonl"), Path(folder, "log.txt")
        own = Path(folder, "own").resolve()
        own.mkdir()
        command = [
            sys.executable, "-m", "tests.gpu_check.section", section.name, str(own), str(file),
        ]  # fmt: skip
        code = run_until(command, min(limit, left), log, _environment(settings))
        return SectionResult.ended(
            section.name, Findings(file=file).all(), code, seconds=time.monotonic() - start,
            limit_s=limit if limit <= left else None,
            log=log.read_text(encoding="utf-8", errors="replace"),
        )  # fmt: skip


def _environment(settings: Settings) -> Mapping[str, str]:
    """Return this process' environment, with this project's code found from any folder."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    added = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    threads = {"OMP_NUM_THREADS": "1"} if settings.is_small else {}
    return {**os.environ, **added, **threads}
