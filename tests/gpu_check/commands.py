"""The commands as a user types them: console scripts like those that pip makes."""

from __future__ import annotations

import subprocess
import sys
import time
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
    """A command that has ended; `output` is all that it printed."""

    code: int
    output: str
    seconds: float

    @property
    def last_words(self) -> str:
        """The end of the output, in one line."""
        return " ".join(self.output.split())[-_MOST_SHOWN:]


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
        process, output, start = self._start(name, options)
        ended = _ended(process.wait(), output, start)
        detail = f"{ended.seconds:.1f} s" if ended.code == 0 else ended.last_words
        self.findings.check(f"{self.title}: {what}", ended.code == 0, detail)
        return ended

    def kill_after(self, text: str, name: str, *options: str) -> Ended:
        """Run a command, and send it SIGKILL as soon as it has printed a text."""
        process, output, start = self._start(name, options)
        while process.poll() is None:
            if text in output.read_text(encoding="utf-8", errors="replace"):
                process.kill()
                process.wait()
                break
            time.sleep(_POLL_S)
        return _ended(process.returncode, output, start)

    def _start(
        self, name: str, options: tuple[str, ...]
    ) -> tuple[subprocess.Popen[bytes], Path, float]:
        output = self.folder / "output.txt"
        command = [sys.executable, str(self._paths[name]), *options, "--device", self.device]
        print("$", name, *options, flush=True)
        start = time.perf_counter()
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=file, stderr=subprocess.STDOUT
            )
        return process, output, start


def _ended(code: int, output: Path, start: float) -> Ended:
    seconds = time.perf_counter() - start
    text = output.read_text(encoding="utf-8", errors="replace")
    print(text, flush=True)
    return Ended(code=code, output=text, seconds=seconds)
