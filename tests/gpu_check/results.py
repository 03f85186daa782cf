"""What all sections found, as JSON, as text, and in one summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from data.system.atomic_files import write_atomically
from tests.benchmarks.machine import machine_facts
from tests.gpu_check.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionResult:
    """`how`: ended, crashed, stopped (at its limit), cut (all time was up), or not reached."""

    name: str
    how: str
    seconds: float = 0.0
    findings: Sequence[dict[str, Any]] = ()
    log: str = ""

    @classmethod
    def ended(
        cls, name: str, found: Sequence[dict[str, Any]], code: int | None, *, seconds: float,
        limit_s: float | None, log: str = "",
    ) -> SectionResult:  # fmt: skip
        """Return that of a process with this exit code (None: its time was up).

        `limit_s` is the section's own limit, if that, and not the end of all time, was the nearer.
        """
        if code == 0:
            how, why = "ended", ""
        elif code is not None:
            how, why = "crashed", f"exit code {code}"
        elif limit_s is not None:
            how, why = "stopped", f"not done within {limit_s:.0f} s"
        else:
            how, why = "cut", ""
        failed = {
            "kind": "check", "what": f"section {name}", "passed": False,
            "detail": f"{why}: see sections.log",
        }  # fmt: skip
        findings = [*found, failed] if why else found
        return cls(name=name, how=how, seconds=seconds, findings=findings, log=log)

    def lines(self) -> list[str]:
        """Return tables, checks, and how it went, for a terminal."""
        tables = [f"{each['text']}\n" for each in self.findings if each["kind"] == "table"]
        others = [_line(each) for each in self.findings if each["kind"] != "table"]
        return [*tables, *others, f"({self.how}, {self.seconds:.0f} s)"]


class Results:
    """All sections' results, in the order in which they ran."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sections: list[SectionResult] = []
        self._facts = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "device": settings.device_name,
            "machine": machine_facts(),
        }

    def add(self, result: SectionResult) -> None:
        """Take in another section."""
        self._sections.append(result)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The checks that failed."""
        return [each for each in self._found("check") if not each["passed"]]

    def write(self, seconds: float) -> None:
        """Write results.json and summary.txt."""
        out = self._settings.out
        raw = {
            **self._facts,
            "seconds": round(seconds, 1),
            "sections": {
                each.name: {
                    "how": each.how, "seconds": round(each.seconds, 1),
                    "findings": [
                        {key: value for key, value in found.items() if key not in ("text", "goals")}
                        for found in each.findings
                    ],
                }
                for each in self._sections
            },
        }  # fmt: skip
        write_atomically(out / "results.json", json.dumps(raw, indent=1).encode() + b"\n")
        tables = "\n\n".join(each["text"] for each in self._found("table"))
        text = f"{tables}\n\n{self.summary()}\n"
        write_atomically(out / "summary.txt", text.encode())

    def summary(self) -> str:
        """Return a line for each check and goal, and for each section that did not end."""
        goals = [goal for table in self._found("table") for goal in table["goals"]]
        unfinished = [each for each in self._sections if each.how in ("cut", "not reached")]
        checks = [*self._found("check"), *self._found("skipped")]
        num_met = sum(goal["is_met"] for goal in goals)
        num_passed = len(self._found("check")) - len(self.failed)
        return "\n".join([
            f"== summary: {self._facts['device']}, {self._facts['date']} ==",
            *map(_line, checks),
            *(f"GOAL  {goal['line']}" for goal in goals),
            *(f"{each.how.upper()}: {each.name} (all time was up)" for each in unfinished),
            f"checks: {num_passed} passed, {len(self.failed)} failed; "
            f"goals: {num_met} met, {len(goals) - num_met} missed; "
            f"sections without an end: {len(unfinished)}",
        ])  # fmt: skip

    def _found(self, kind: str) -> list[dict[str, Any]]:
        return [each for s in self._sections for each in s.findings if each["kind"] == kind]


def _line(finding: dict[str, Any]) -> str:
    if finding["kind"] == "skipped":
        return f"SKIP  {finding['what']}: {finding['detail']}"
    verdict = "PASS" if finding["passed"] else "FAIL"
    detail = finding["detail"]
    return f"{verdict}  {finding['what']}" + (f": {detail}" if detail else "")
