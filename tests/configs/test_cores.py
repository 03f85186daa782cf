"""A command takes the cores that it may use and that are free, and leaves the user's own choice."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs import cores

ROOT = Path(__file__).parents[2]
OURS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
PASSIVE, BRIEF = {"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "4000"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Four idle cores, no torch, and a user who has set nothing."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(cores, "_is_ours", False)
    monkeypatch.setattr(cores, "_num_physical", lambda: 4)
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    monkeypatch.setattr(cores, "idle_cores", lambda seconds: 3.9)
    return monkeypatch


def now() -> dict[str, str]:
    return {name: os.environ[name] for name in OURS if name in os.environ}


@pytest.mark.parametrize(
    ("usable", "idle", "given", "expected"),
    [
        (4, 3.9, {}, BRIEF),
        (4, 3.1, {}, {"OMP_NUM_THREADS": "3", **PASSIVE}),
        (4, 0.2, {}, {"OMP_NUM_THREADS": "2", **PASSIVE}),
        (2, 1.1, {}, {"OMP_NUM_THREADS": "1", **PASSIVE}),
        (3, 4.0, {}, {"OMP_NUM_THREADS": "3", **BRIEF}),  # a quota of three
        (8, math.inf, {}, BRIEF),  # two threads a core, on a system that says nothing of load
        (4, 3.1, {"OMP_NUM_THREADS": "4"}, BRIEF),
        (4, 3.1, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_NUM_THREADS": "3"}),
        (4, 3.9, {"GOMP_SPINCOUNT": "4000"}, {}),
        (4, 3.9, {"KMP_BLOCKTIME": "7"}, {}),
    ],
)
def test_threads_are_for_idle_cores_and_wait_briefly_unless_the_user_has_said(
    machine: pytest.MonkeyPatch, usable: int, idle: float, given: dict[str, str],
    expected: dict[str, str],
) -> None:  # fmt: skip
    machine.setattr(cores, "_num_physical", lambda: usable if usable == 2 else 4)
    machine.setattr(cores, "usable_cores", lambda: usable)
    machine.setattr(cores, "idle_cores", lambda seconds: idle)
    os.environ.update(given)
    cores.share_cores()
    assert now() == given | expected


def test_program_that_has_loaded_torch_is_left_alone(machine: pytest.MonkeyPatch) -> None:
    machine.setitem(sys.modules, "torch", cores)
    cores.share_cores()
    assert now() == {}
    assert cores.threads_for_resumed(4) is None


def test_resumed_run_has_the_threads_of_before_if_the_machine_and_the_user_allow(
    machine: pytest.MonkeyPatch,
) -> None:
    machine.setattr(cores, "idle_cores", lambda seconds: 1.0)
    cores.share_cores()
    assert [cores.threads_for_resumed(number) for number in (1, 4, 5)] == [1, 4, None]
    machine.setattr(cores, "_is_ours", False)
    os.environ["OMP_NUM_THREADS"] = "2"
    cores.share_cores()
    assert cores.threads_for_resumed(4) is None


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/host/path", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/", {}, math.inf),
        ("0::/", {"cpu.max": "nonsense"}, math.inf),
        (
            "3:memory:/m\n1:cpu,cpuacct:/a",
            {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        (
            "1:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
    ],
)
def test_quota_of_control_groups_of_either_version_counts(
    group: str, files: dict[str, str], expected: float, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, text in {"../proc/self/cgroup": group, **files}.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(cores, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "sys")
    assert cores.quota_cores() == expected
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    assert cores.usable_cores() == (64 if expected == math.inf else math.ceil(expected))


def test_idle_cores_are_those_of_ours_that_nobody_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu 9 9\ncpu0 10 0 0 90 0 0 0 0 7\ncpu1 5 0 0 5 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0\n"
    )
    later = "cpu 9 9\ncpu0 12 0 0 105 3 0 0 0 9\ncpu1 5 20 0 5 0 0 0 0\ncpu2 9 0 0 0 0 0 0 0\n"
    monkeypatch.setattr(cores, "_PROC", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: stat.write_text(later))
    assert cores.idle_cores(0.2) == pytest.approx(18 / 20 + 0)
    stat.unlink()
    assert cores.idle_cores(0.2) == math.inf


def test_two_threads_of_one_core_are_one_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, siblings in enumerate(["0,2", "1,3", "0,2"]):
        (tmp_path / f"cpu{number}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}/topology/thread_siblings_list").write_text(siblings)
    monkeypatch.setattr(cores, "_CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 7}, raising=False)
    assert cores._num_physical() == 3


def test_every_command_shares_cores_before_anything_loads_torch() -> None:
    commands = [
        "extract.cli",
        "extract.detector_cli",
        "train.cli",
        "analyze.cli",
        "analyze.streams_cli",
    ]
    for command in commands:
        source = (ROOT / command.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        first = source.count("    setup_logging(log_level)\n    share_cores()\n")
        assert first == source.count("\n@run_command\n") > 0
    script = f"import sys, {', '.join(commands)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
