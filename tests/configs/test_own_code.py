"""Code of one's own is found where a command runs; what is wrong with it is one clear line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from configs.errors import CacheError, ConfigError
from configs.own_code import code_of, is_own, load_own, own_code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that is not on the path, as for a console script."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return tmp_path


def test_a_function_in_the_working_directory_is_found(folder: Path) -> None:
    (folder / "own_found.py").write_text("def made():\n    return 7\n")
    assert load_own("own_found:made", "model.name")() == 7


def test_a_function_in_a_package_is_found(folder: Path) -> None:
    (folder / "own_package").mkdir()
    (folder / "own_package/deep.py").write_text("class Made:\n    value = 8\n")
    assert load_own("own_package.deep:Made", "model.name")().value == 8


def test_the_working_directory_hides_nothing_that_is_installed(folder: Path) -> None:
    (folder / "statistics.py").write_text("def mean(values):\n    return 'hidden'\n")
    assert load_own("statistics:mean", "model.name")([1, 3]) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own_absent:made", None, r"No module named 'own_absent'.*: install .* run .* the folder"),
        ("own_absent.deep:made", None, r"No module named 'own_absent'.*: install its package"),
        ("own_lacks:made", "import own_dependency", r"named 'own_dependency' \(.*line 1\)$"),
        ("own_typo:mad", "def made(): ...", r"own_typo.py has no 'mad': mend the name"),
        ("own_value:made", "made = 3", r"is a int and cannot be called: name a class"),
        ("own_fails:made", "x = 1\nx[0]", r"TypeError: .*own_fails.py, line 2\)$"),
        ("own_exits:made", "import sys\nsys.exit(3)", r"SystemExit: 3 .*own_exits.py, line 2\)$"),
        ("own_syntax:made", "def made(:", r"SyntaxError: .*own_syntax.py, line 1\)"),
        (":made", None, r"write package.module:name"),
        ("own_empty:", "", r"write package.module:name"),
        ("own:two:three", None, r"write package.module:name"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_setting(
    folder: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (folder / f"{name.partition(':')[0]}.py").write_text(content)
    with pytest.raises(ConfigError, match=message) as raised:
        load_own(name, "model.name")
    assert re.match(rf"model\.name: '{re.escape(name)}' ", str(raised.value))


def test_what_own_code_raises_is_one_line_and_our_own_errors_pass() -> None:
    for error in (KeyError("a"), SystemExit(3)):
        line = rf"^it fails: {type(error).__name__}: .* \(.*test_own_code.py, line \d+\)$"
        with pytest.raises(ConfigError, match=line), own_code("it fails"):
            raise error
    with pytest.raises(CacheError, match=r"^a cache$"), own_code("it fails"):
        raise CacheError("a cache")
    with pytest.raises(KeyboardInterrupt), own_code("it fails"):
        raise KeyboardInterrupt


def test_code_is_another_when_the_modules_own_file_changes_whether_imported_or_not(
    folder: Path,
) -> None:
    (folder / "own_hashed.py").write_text("from own_beside import made\n")
    (folder / "own_beside.py").write_text("def made(): ...\n")
    before = code_of("own_hashed:made")
    assert re.fullmatch("[0-9a-f]{64}", before)
    load_own("own_hashed:made", "model.name")
    (folder / "own_beside.py").write_text("def made(): return 7\n")
    assert code_of("own_hashed:made") == before
    with (folder / "own_hashed.py").open("a") as file:
        file.write("# another\n")
    assert code_of("own_hashed:made") not in ("", before)


@pytest.mark.parametrize("module", ["own_absent", "own_broken.deep", "sys", "", ".own"])
def test_a_module_without_a_file_has_no_code(folder: Path, module: str) -> None:
    (folder / "own_broken").mkdir()
    (folder / "own_broken/__init__.py").write_text("1 / 0\n")
    assert code_of(f"{module}:made") == ""


def test_only_a_name_with_a_colon_is_ones_own() -> None:
    assert is_own("package.module:name")
    assert not is_own("scale_hyperprior")
