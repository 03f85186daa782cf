"""Run every benchmark, each in a fresh process; results land in bench/results.json."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    "startup",
    "shared_cores",
    "streaming",
    "crops",
    "one_level",
    "memory",
    "cold",
    "writer",
    "verify",
    "extraction",
    "dry_run",
    "training_step",
    "coding",
    "coarse_to_fine",
    "in_the_loop",
    "remote",
)


def main() -> None:
    """Go on after one that fails; say at the end which did."""
    failed = []
    for name in BENCHMARKS:
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", *sys.argv[1:]]
        if subprocess.run(command).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
