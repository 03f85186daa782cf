"""What pip installs: the five packages, their YAML files and weights, six commands; no tests."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["analyze", "configs", "data", "extract", "train"]

LIST_WHEEL_FILES = """
import sys
from setuptools import Distribution
distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files()
build = distribution.get_command_obj("build_py")
build.build_lib = ""
build.ensure_finalized()
print("\\n".join(build.get_outputs(include_bytecode=False)))
"""


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def wheel_files() -> set[str]:
    """Paths that setuptools puts into the wheel, without building one."""
    listing = subprocess.run(
        [sys.executable, "-c", LIST_WHEEL_FILES], cwd=ROOT, check=True, capture_output=True
    )
    return {line.lstrip("/") for line in listing.stdout.decode().splitlines()}


def test_packages_are_listed_one_by_one(setup_cfg: configparser.ConfigParser) -> None:
    rooms = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert setup_cfg["options"]["packages"].split() == sorted(
        str(room.relative_to(ROOT)).replace("/", ".") for room in rooms
    )


def test_editable_installation_puts_the_project_on_the_path_before_mere_folders(
    setup_cfg: configparser.ConfigParser,
) -> None:
    # setuptools makes a .pth file of the project's folder if this is so, and an import hook if not.
    assert setup_cfg["options"]["package_dir"].split() == ["=", "."]


def test_wheel_holds_each_source_file_and_no_test(wheel_files: set[str]) -> None:
    sources = {
        str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")
    }
    assert {name for name in wheel_files if name.endswith(".py")} == sources


def test_wheel_holds_each_configuration(wheel_files: set[str]) -> None:
    configurations = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*.yaml")}
    assert {name for name in wheel_files if name.endswith(".yaml")} == configurations


def test_wheel_holds_the_weights_of_the_built_in_detector(wheel_files: set[str]) -> None:
    assert "extract/builtin/scenes.pth" in wheel_files


def test_shipped_weights_are_at_most_20_megabytes() -> None:
    sizes_bytes = [path.stat().st_size for path in (ROOT / "extract/builtin").glob("*.pth")]
    assert sizes_bytes
    assert sum(sizes_bytes) <= 20 * 10**6


@pytest.mark.parametrize("name", PACKAGES)
def test_package_that_is_imported_lies_in_this_project(name: str) -> None:
    listing = subprocess.run(
        [sys.executable, "-c", f"import {name}; print({name}.__file__)"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert Path(listing.stdout.decode().strip()) == ROOT / name / "__init__.py"


def test_imported_data_package_is_ours_and_not_a_namesake() -> None:
    import data

    assert data.__file__ is not None
    assert Path(data.__file__).parent == ROOT / "data"


def test_console_scripts_are_the_six_commands(setup_cfg: configparser.ConfigParser) -> None:
    lines = setup_cfg["options.entry_points"]["console_scripts"].split("\n")
    assert [line.replace(" ", "") for line in lines if line] == [
        "extract-features=extract.cli:extract_features",
        "train-detector=extract.detector_cli:train_detector",
        "train-level=train.cli:train_level",
        "analyze-levels=analyze.cli:analyze_levels",
        "compress-features=analyze.streams_cli:compress_features",
        "decompress-features=analyze.streams_cli:decompress_features",
    ]


def test_git_does_not_ignore_a_package() -> None:
    for name in PACKAGES:
        ignored = subprocess.run(
            ["git", "check-ignore", "--no-index", f"{name}/some_module.py"],
            cwd=ROOT,
            capture_output=True,
        )
        assert ignored.returncode != 0, ignored.stdout.decode() or ignored.stderr.decode()


@pytest.mark.parametrize("name", ["features", "checkpoints", "reports"])
def test_git_ignores_what_the_commands_write(name: str) -> None:
    assert f"/{name}/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
