"""All sections, the most important ones first: here a new one is added.

A measurement is a module of `tests.benchmarks` whose `run(folder)` or `run(folder, device=...)`
returns or yields tables. Which of its constants are others where a CPU only shows that it runs says
its `SMALL` ("NAME", or "module.NAME" for one of another benchmark).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """`module` has `run(settings, scratch, findings, *arguments)`; `limit_s` is of 480 in all."""

    name: str
    module: str
    limit_s: float
    arguments: tuple[str, ...] = ()


def _section(name: str, limit_s: float) -> Section:
    return Section(name=name, module=f"tests.gpu_check.{name}", limit_s=limit_s)


def _measured(name: str, limit_s: float) -> Section:
    module = "tests.gpu_check.measurement"
    return Section(name=name, module=module, limit_s=limit_s, arguments=(name,))


SECTIONS = (
    _section("gpu_tests", 150),
    _measured("device_step", 60),
    _section("job_on_scenes", 150),
    _measured("gpu_streaming", 40),
    _measured("gpu_step", 120),
    _section("streams_both_ways", 40),
    _measured("step_parts", 40),
    _measured("runs_together", 60),
    _measured("first_step", 60),
    _section("job_on_photographs", 120),
    _measured("gpu", 120),
    _measured("analysis", 120),
)
