"""What a section finds: checks and tables, each on the disk as soon as it is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.report import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Lines of JSON in a file, which stay when the process that adds them is killed."""

    file: Path

    def check(self, what: str, passed: bool, detail: str = "") -> None:
        """Add something that has to hold."""
        self._add({"kind": "check", "what": what, "passed": passed, "detail": detail})

    def skip(self, what: str, why: str) -> None:
        """Add something that could not be checked here."""
        self._add({"kind": "skipped", "what": what, "detail": why})

    def table(self, table: Table) -> None:
        """Add figures, and the goals beside them."""
        goals = [{"line": goal.line(), "is_met": goal.is_met} for goal in table.goals]
        self._add({
            "kind": "table", "what": table.title, "text": table.text(), "goals": goals,
            "table": table.to_json(),
        })  # fmt: skip

    def all(self) -> list[dict[str, Any]]:
        """Return what is there; a line that was cut off is left out."""
        if not self.file.exists():
            return []
        *lines, _ = self.file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines]

    def _add(self, finding: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finding) + "\n")
