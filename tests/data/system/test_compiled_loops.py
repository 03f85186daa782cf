"""Compiled loops: kept for the very sources that they were compiled from, and where they can be."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numba import config, njit

from configs.doors import PACKAGES
from data.system import compiled_loops
from data.system.compiled_loops import compiled, user_cache
from tests.support.failing_disk import failing_disk

ROOT = Path(__file__).parents[3]
LOOP = """
from data.system.compiled_loops import compiled
from formula_of_project import twice
twice = compiled(twice)
def loop(number):
    return twice(number) + 1
"""
FORMULA = "def twice(number):\n    return 2 * number\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two files: a loop, and the formula that it calls."""
    folder = tmp_path / "project" / "data"
    folder.mkdir(parents=True)
    (folder / "loop_of_project.py").write_text(LOOP)
    (folder / "formula_of_project.py").write_text(FORMULA)
    monkeypatch.setattr(compiled_loops, "_PROJECT", folder.parent)
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kept"))
    return folder


def in_a_new_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], int]:
    """Return the loop of the project's files as they are now, as a process that starts now does."""
    monkeypatch.setattr(compiled_loops, "_stamps_at_start", compiled_loops._stamps())
    compiled_loops._folder.cache_clear()
    return from_now_on(folder, monkeypatch)


def from_now_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], int]:
    # Not by way of __pycache__, which looks at whole seconds.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(folder)
    for name in ("loop_of_project", "formula_of_project"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return compiled(importlib.import_module("loop_of_project").loop)


@pytest.fixture(autouse=True)
def _no_folder_outlives_a_test() -> Any:
    yield
    compiled_loops._folder.cache_clear()


def kept_forms(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.nbc"))


def test_formula_edited_in_another_file_is_what_runs(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_a_new_process(project, monkeypatch)(10) == 21
    (project / "formula_of_project.py").write_text(FORMULA.replace("2", "4"))
    assert in_a_new_process(project, monkeypatch)(10) == 41
    before = kept_forms(tmp_path)
    (project / "formula_of_project.py").write_text(FORMULA)
    again = in_a_new_process(project, monkeypatch)
    assert again(10) == 21
    assert again.stats.cache_hits == {next(iter(again.nopython_signatures)).args: 1}  # type: ignore[attr-defined]
    assert kept_forms(tmp_path) == before


def test_sources_edited_under_a_running_process_leave_nothing_for_the_next(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_new_process(project, monkeypatch)
    (project / "formula_of_project.py").write_text(FORMULA.replace("2", "4"))
    assert from_now_on(project, monkeypatch)(10) == 41
    assert kept_forms(tmp_path) == []


@pytest.mark.parametrize(
    "edited",
    [
        "train/codecs/fast/winograd.py", "train/codecs/fast/lanes.py",
        "train/codecs/entropy/rans.py", "data/writing/cast_kernel.py", "configs/doors.py",
    ],
)  # fmt: skip
def test_each_of_our_sources_belongs_to_what_is_kept(
    edited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=_all_but_sources)
    before = compiled_loops._key()
    monkeypatch.setattr(compiled_loops, "_PROJECT", tmp_path)
    assert compiled_loops._key() == before, "where the sources lie does not matter"
    (tmp_path / edited).write_text((tmp_path / edited).read_text().replace("4", "5", 1) + "\n")
    assert compiled_loops._key() != before


def _all_but_sources(folder: str, names: list[str]) -> set[str]:
    return {
        name for name in names if not name.endswith(".py") and not Path(folder, name).is_dir()
    } | {"__pycache__"}


@pytest.mark.parametrize(
    ("module", "attribute"),
    [("numba", "__version__"), ("llvmlite", "__version__"), ("sys", "version")],
)
def test_each_version_of_the_compiler_keeps_its_own(
    module: str, attribute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compiled_loops._key()
    monkeypatch.setattr(sys.modules[module], attribute, "another")
    assert compiled_loops._key() != before


def test_settings_of_the_compiler_keep_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiled_loops._key()
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")
    assert compiled_loops._key() == before
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    assert compiled_loops._key() != before


def test_compiled_loops_lie_in_the_user_s_cache_folder_and_not_beside_the_sources(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    before = set(project.parent.rglob("*"))
    assert in_a_new_process(project, monkeypatch)(10) == 21
    assert set(project.parent.rglob("*")) == before
    kept = kept_forms(tmp_path / "home" / "fpn-feature-codecs" / "compiled")
    assert [path.name.split("-")[0] for path in kept] == [
        "formula_of_project.twice",
        "loop_of_project.loop",
    ]


def test_what_no_process_has_used_for_a_month_is_removed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_new_process(project, monkeypatch)
    old = compiled_loops._folder()
    (project / "loop_of_project.py").write_text(LOOP + "\n")
    in_a_new_process(project, monkeypatch)
    recent = compiled_loops._folder()
    assert old is not None and recent is not None and old.is_dir()
    os.utime(old, (0, 0))
    (project / "loop_of_project.py").write_text(LOOP + "\n\n")
    in_a_new_process(project, monkeypatch)
    assert not old.exists() and recent.is_dir()


def test_loop_that_no_folder_can_keep_is_compiled_all_the_same(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_text("a file, where the folder would be")
    assert in_a_new_process(project, monkeypatch)(10) == 21
    assert not (project / "__pycache__").exists()


def test_loop_of_no_file_is_compiled_all_the_same() -> None:
    function = eval("lambda number: number + 1")  # so Numba has nowhere to keep it
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(function)
    assert compiled(function)(41) == 42


def test_loop_that_a_full_disk_cannot_keep_runs_all_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = in_a_new_process(project, monkeypatch)
    with failing_disk("loop_of_project*", "write") as disk:
        assert loop(20) == 41
    assert disk.met


def test_no_other_file_asks_numba_to_compile() -> None:
    """It would keep the compiled by the function's own file alone."""
    asking = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                if name == "numba" and {alias.name for alias in node.names} - {"types"}:
                    asking.add(path.name)
    assert asking == {"compiled_loops.py"}


def test_loops_run_on_any_processor_that_is_named() -> None:
    """Numba compiles for it: nothing may ask what the processor at hand can do beyond that."""
    script = """
import numpy as np
from data.writing.cast_kernel import CHANNELS, WORDS, store_halves
values = np.arange(32, dtype=np.float32).reshape(4, 8) / 3
stored = np.empty((8, 4), np.float16)
memory = np.empty((CHANNELS, 8), np.float16), np.empty((WORDS, 8), np.int64)
sums, _ = store_halves(values, stored, *memory)
assert (stored == values.T.astype(np.float16)).all()
assert np.allclose(sums[:, 0], stored.mean(0, dtype=np.float64))
"""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True, cwd=ROOT, env=os.environ | {"NUMBA_CPU_NAME": "generic"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("platform", "named", "folder"),
    [
        ("linux", None, "/home/her/.cache"),
        ("linux", "/elsewhere", "/elsewhere"),
        ("darwin", None, "/home/her/Library/Caches"),
    ],
)
def test_folder_goes_by_platform_and_environment(
    platform: str, named: str | None, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/her"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if named is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert user_cache() == Path(folder)
