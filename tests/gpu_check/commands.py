"""The commands as a user types them: console scripts like those that pip makes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.startup import COMMANDS
from tests.gpu_check.findings import Findings

SCRIPT = """#!{python}
import sys
from {module} import {function}
if __name__ == "__main__":
    sys.exit({function}())
"""
_POLL_S = 0.02
_MOST_SHOWN = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A command that has ended: what it printed, and what it logged."""

    code: int
    output: str
    logged: str
    seconds: float

    @property
    def last_words(self) -> str:
        """The end of what it told, in one line."""
        return " ".join(f"{self.output} {self.logged}".split())[-_MOST_SHOWN:]


@dataclass(frozen=True, kw_only=True, slots=True)
class Commands:
    """Scripts in a folder, run there one after another."""

    folder: Path
    findings: Findings
    device: str
    title: str
    _paths: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, target in COMMANDS.items():
            module, function = target.split(":")
            path = self._paths[name] = self.folder / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = SCRIPT.format(python=sys.executable, module=module, function=function)
            path.write_text(text, encoding="utf-8")

    def run(self, what: str, name: str, *options: str) -> Ended:
        """Run a command to its end, which has to be a good one; say so as `what`."""
        process, start = self._start(name, options)
        process.wait()
        ended = self._ended(process, start)
        detail = f"{ended.seconds:.1f} s" if ended.code == 0 else ended.last_words
        self.findings.check(f"{self.title}: {what}", ended.code == 0, detail)
        return ended

    def kill_after(self, text: str, name: str, *options: str) -> Ended:
        """Run a command, and send it SIGKILL as soon as it has printed a text."""
        process, start = self._start(name, options)
        while process.poll() is None and text not in self._printed.read_text(encoding="utf-8"):
            time.sleep(_POLL_S)
        process.kill()
        process.wait()
        return self._ended(process, start)

    @property
    def _printed(self) -> Path:
        return self.folder / "printed.txt"

    @property
    def _logged(self) -> Path:
        return self.folder / "logged.txt"

    def _start(self, name: str, options: Sequence[str]) -> tuple[subprocess.Popen[bytes], float]:
        command = [sys.executable, str(self._paths[name]), *options, "--device", self.device]
        print("$", name, *options, flush=True)
        start = time.perf_counter()
        with self._printed.open("wb") as printed, self._logged.open("wb") as logged:
            process = subprocess.Popen(command, cwd=self.folder, stdout=printed, stderr=logged)
        return process, start

    def _ended(self, process: subprocess.Popen[bytes], start: float) -> Ended:
        seconds = time.perf_counter() - start
        output, logged = (
            path.read_text(encoding="utf-8", errors="replace")
            for path in (self._printed, self._logged)
        )
        print(logged, output, sep="\n", flush=True)
        return Ended(code=process.returncode, output=output, logged=logged, seconds=seconds)
