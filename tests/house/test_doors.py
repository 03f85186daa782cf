"""The Python API: the names that each package hands out, and users' files that hide a package."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.test_layout import PACKAGES, ROOT

DOORS = {
    "analyze": [
        "AnalysisRequest", "Kept", "Target", "Wanted", "analyze", "compress_cache",
        "compress_per_image", "decompress_folder", "ensemble_of_runs", "read_candidates",
        "read_ensemble", "ways_of_runs",
    ],
    "configs": ["CacheError", "Config", "ConfigError", "UserError", "load_config"],
    "data": [
        "CacheFolder", "Companion", "LevelDataset", "LevelReader", "LevelStream",
        "MixedLevelStream", "load_images", "on_device",
    ],
    "extract": ["evaluate_detector", "extract", "load_detector", "load_images", "plan_extraction"],
    "train": ["LevelCodec", "LoadedModels", "build_codec", "load_codec", "rate_distortion"],
}  # fmt: skip


def run_script(file: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a script where a user would, with our project on the path as an installation has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(file)], cwd=file.parent, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_names_that_a_package_hands_out_are_these(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == DOORS[package]
    assert set(DOORS[package]) <= set(dir(module))


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package, names in DOORS.items() for name in names]
)
def test_each_name_leads_to_something_documented_of_that_name(package: str, name: str) -> None:
    found = getattr(importlib.import_module(package), name)
    assert found.__name__ == name
    assert (found.__doc__ or "").strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_the_same_doors(package: str) -> None:
    """The names stand in `if TYPE_CHECKING:` too, from the same files."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    mapping = next(node for node in ast.walk(branch) if isinstance(node, ast.Dict))
    assert ast.literal_eval(mapping) == seen
    assert sorted(seen) == sorted(DOORS[package])


def test_a_name_that_no_door_has_is_an_error() -> None:
    import data

    with pytest.raises(AttributeError, match="module 'data' has no attribute 'LevelReeder'"):
        data.LevelReeder  # noqa: B018
    with pytest.raises(ImportError, match="LevelReeder"):
        exec("from data import LevelReeder")


def test_importing_a_package_imports_nothing_that_is_heavy(tmp_path: Path) -> None:
    told = "print(sorted({'torch', 'numpy', 'pydantic', 'yaml', 'click'} & sys.modules.keys()))"
    done = run_script(tmp_path / "own.py", f"import sys, {', '.join(PACKAGES)}\n{told}\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize("hidden", ["data", "extract"])
@pytest.mark.parametrize("as_package", [False, True])
def test_a_file_of_the_users_that_hides_a_package_is_named(
    tmp_path: Path, hidden: str, as_package: bool
) -> None:
    (tmp_path / hidden).mkdir()
    namesake = tmp_path / (f"{hidden}/__init__.py" if as_package else f"{hidden}.py")
    namesake.write_text("")
    done = run_script(tmp_path / "own.py", "from train import LevelCodec\n")
    assert done.returncode == 1
    shown = tmp_path / hidden if as_package else namesake
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: {shown} hides the package {hidden!r} of fpn-feature-codecs: rename it, "
        "or move it to another folder"
    )


def test_a_script_named_like_a_package_is_told_so_before_it_imports_itself(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    done = run_script(script, "from data import CacheFolder\nfrom train import LevelCodec\n")
    assert done.returncode == 1
    assert f"UserWarning: {script} hides the package 'train' of fpn-feature-codecs" in done.stderr
    assert done.stderr.count("hides the package") == 1
    done = run_script(script, "from data import CacheFolder\nprint(CacheFolder('x'))\n")
    assert (done.returncode, done.stdout) == (0, "x\n")  # it needs no `train`


def test_a_file_that_hides_the_package_of_settings_is_named_by_the_line_that_fails(
    tmp_path: Path,
) -> None:
    (tmp_path / "configs.py").write_text("")
    done = run_script(tmp_path / "own.py", "from data import LevelReader\n")
    assert "A configs.py of yours hides ours" in done.stderr


def test_a_folder_of_images_called_data_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = run_script(tmp_path / "own.py", "import data\nprint(data.__all__[0])\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "CacheFolder\n", "")


def test_a_command_does_not_see_the_scripts_of_the_folder_it_runs_in(tmp_path: Path) -> None:
    # A console script: Python puts its own folder on the path, not the working directory.
    script = tmp_path / "bin/train-level"
    script.parent.mkdir()
    script.write_text("from train.cli import train_level\ntrain_level()\n")
    for name in PACKAGES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hidden')")
    done = subprocess.run(
        [sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "Train the codec of one FPN level" in done.stdout
