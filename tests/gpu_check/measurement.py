"""A benchmark's tables; on a CPU of small sizes, and without goals."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path

from tests.gpu_check.findings import Findings
from tests.gpu_check.settings import Settings

ON_CPU = "on a CPU, in small: this shows that it runs, and no more"


def run(settings: Settings, scratch: Path, findings: Findings, name: str) -> None:
    """Run a module of tests.benchmarks; add each table as it comes."""
    module = importlib.import_module(f"tests.benchmarks.{name}")
    if settings.is_small:
        for place, value in getattr(module, "SMALL", {}).items():
            other, _, constant = place.rpartition(".")
            owner = importlib.import_module(f"tests.benchmarks.{other}") if other else module
            setattr(owner, constant, value)
    takes_device = "device" in inspect.signature(module.run).parameters
    for table in module.run(scratch, **({"device": settings.device} if takes_device else {})):
        if settings.is_small:
            findings.table(dataclasses.replace(table, note=ON_CPU, goals=()))
        else:
            findings.table(table)
