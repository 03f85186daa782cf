"""All tests that are marked `gpu`."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.gpu_check.findings import Findings
from tests.gpu_check.settings import Settings

TESTS = Path(__file__).parents[1]
MARKED = re.compile(r"\bmark\.gpu\b|\bsupport\.devices\b")
_PROCESSES = 4


def run(settings: Settings, scratch: Path, findings: Findings) -> None:
    """Run them; what failed is named, and gpu-tests.xml has the rest."""
    report = settings.out / "gpu-tests.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider",
        f"--junitxml={report}", f"--basetemp={scratch / 'pytest'}",
        *map(str, files_with_gpu_tests()),
    ]  # fmt: skip
    if not settings.is_small and importlib.util.find_spec("xdist"):
        command += ["-n", str(_PROCESSES), "--dist", "loadfile"]
    done = subprocess.run(command)
    passed, skipped, failed = outcome(report)
    detail = f"{passed} passed, {len(failed)} failed, {skipped} skipped"
    findings.check("tests marked gpu", done.returncode == 0, "; ".join([detail, *failed]))
    if settings.is_small:
        findings.skip("tests marked gpu", f"{skipped} need a GPU")
    else:
        findings.check("tests marked gpu ran on the GPU", passed > 0, detail)


def files_with_gpu_tests() -> list[Path]:
    """Return the files that mention the mark: collecting all others takes half a minute."""
    return [
        path
        for path in sorted(TESTS.rglob("test_*.py"))
        if MARKED.search(path.read_text(encoding="utf-8"))
    ]


def outcome(report: Path) -> tuple[int, int, list[str]]:
    """Return how many tests of a JUnit file passed and were skipped, and which failed."""
    cases = list(ET.parse(report).iter("testcase"))
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - skipped - len(failed), skipped, failed
