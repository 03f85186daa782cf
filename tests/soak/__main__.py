"""Train, extract and analyse for long, each in a process of its own; exit with 1 if anything grows.

[SOAK_SHARE=0.1] python -m tests.soak [train|extract|analyse]...
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.accounting import in_fresh_process
from tests.soak.growth import memory_growth_bytes, warm, what_grows
from tests.soak.jobs import JOBS, soak

OUT = Path("soak")


def main() -> None:
    """Print a line for each job, and what grew; each reading is in soak/<job>.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"default: {' '.join(JOBS)}")
    arguments = parser.parse_args()
    share = float(os.environ.get("SOAK_SHARE", "1"))  # of the work
    OUT.mkdir(exist_ok=True)
    grown = False
    for name in arguments.jobs or JOBS:
        number = max(10, int(JOBS[name][1] * share))
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=OUT) as scratch:
            os.environ["TMPDIR"] = str(Path(scratch).resolve())
            work = Path(scratch, "work")
            work.mkdir()
            began = time.monotonic()
            out = OUT.resolve() / f"{name}.csv"
            readings = in_fresh_process(soak, name, number, work.resolve(), out)
            seconds = time.monotonic() - began
            del os.environ["TMPDIR"]
        last, growth = readings[-1], memory_growth_bytes(warm(readings)) / 2**20
        print(
            f"{name}: {last.done} in {seconds:.0f} s: memory {last.memory_bytes / 2**20:.0f} MiB, "
            f"growing by {growth:+.1f}; {last.num_handles} handles, {last.num_threads} threads, "
            f"{last.num_temporary} temporary files",
            flush=True,
        )
        for line in what_grows(readings):
            grown = True
            print(f"{name}: grows: {line}", flush=True)
    sys.exit(1 if grown else 0)


if __name__ == "__main__":
    main()
