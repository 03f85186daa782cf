"""`make` finds a fit Python, or says what to type: with nothing on the PATH but stubs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "make", "mkdir", "touch")

# -c says whether it is fit, -m venv makes the folder and leaves there who made it.
PYTHON = """#!/bin/bash
case "$1" in
    -c) exit {unfit} ;;
    -m) mkdir -p "$3"; echo "{name} $*" >"$3/made-by" ;;
esac
"""
UV = """#!/bin/bash
mkdir -p "${!#}"; echo "uv $*" >"${!#}/made-by"
"""


class FreshMachine:
    """A folder with the Makefile, and a PATH with the tools that it needs and no Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "bin"
        self.path.mkdir()
        shutil.copy(ROOT / "Makefile", folder)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.path / tool).symlink_to(found)

    def put(self, name: str, script: str) -> None:
        (self.path / name).write_text(script, encoding="utf-8")
        (self.path / name).chmod(0o755)

    def put_python(self, name: str, *, is_fit: bool) -> None:
        self.put(name, PYTHON.format(name=name, unfit=int(not is_fit)))

    def make(self, *variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *variables, ".venv/created"], cwd=self.folder, capture_output=True, text=True,
            env={"PATH": str(self.path)},
        )  # fmt: skip

    @property
    def made_by(self) -> str:
        return (self.folder / ".venv" / "made-by").read_text(encoding="utf-8").strip()


@pytest.fixture
def machine(tmp_path: Path) -> FreshMachine:
    return FreshMachine(tmp_path)


def test_an_older_python_beside_a_python3_that_is_too_new_is_found(
    machine: FreshMachine,
) -> None:
    machine.put_python("python3", is_fit=False)
    machine.put_python("python3.11", is_fit=True)
    assert machine.make().returncode == 0
    assert machine.made_by == "python3.11 -m venv .venv"


def test_a_shim_with_no_version_behind_it_is_passed_over(machine: FreshMachine) -> None:
    machine.put(
        "python3.12", "#!/bin/bash\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"
    )
    machine.put_python("python3.10", is_fit=True)
    done = machine.make()
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.made_by == "python3.10 -m venv .venv"


def test_python3_of_a_fit_version_serves(machine: FreshMachine) -> None:
    machine.put_python("python3", is_fit=True)
    assert machine.make().returncode == 0
    assert machine.made_by == "python3 -m venv .venv"


def test_uv_fetches_a_python_where_none_is_fit(machine: FreshMachine) -> None:
    machine.put_python("python3", is_fit=False)
    machine.put("uv", UV)
    assert machine.make().returncode == 0
    assert machine.made_by == "uv venv --seed --python 3.12 .venv"


def test_with_nothing_fit_the_message_says_what_to_type(machine: FreshMachine) -> None:
    machine.put_python("python3", is_fit=False)
    done = machine.make()
    assert done.returncode == 2
    error, what_to_do = done.stderr.splitlines()[:2]
    assert error == (
        "error: none of these is a Python 3.10 to 3.12 that can make environments: "
        "python3.12 python3.11 python3.10 python3."
    )
    assert "apt-get install python3.12-venv" in what_to_do
    assert "make PYTHON=/path/to/python3.12 .venv/created" in what_to_do
    assert not (machine.folder / ".venv").exists()


def test_a_python_that_the_user_names_is_the_only_one_asked(machine: FreshMachine) -> None:
    machine.put_python("python3.12", is_fit=True)
    machine.put_python("python3.10", is_fit=True)
    machine.put("uv", UV)
    assert machine.make("PYTHON=python3.10").returncode == 0
    assert machine.made_by == "python3.10 -m venv .venv"
    shutil.rmtree(machine.folder / ".venv")
    machine.put_python("mine", is_fit=False)
    done = machine.make("PYTHON=mine")
    assert done.returncode == 2
    assert "that can make environments: mine." in done.stderr


def test_the_check_takes_the_python_of_the_tests_which_is_fit() -> None:
    """In a real Python: the stubs above only pretend to run it."""
    line = (ROOT / "Makefile").read_text(encoding="utf-8").split("IS_FIT := ", 1)[1].splitlines()[0]
    python = sys.executable
    assert subprocess.run([python, "-c", line]).returncode == 0
    too_new = f"import sys; sys.version_info = (3, 13, 0); {line}"
    assert subprocess.run([python, "-c", too_new]).returncode == 1
