"""Rooms keep what their `__init__.py` says: what they are for, and which rooms they may import.

A room is a package. Its docstring ends with a line `May import: room, room.` which names all other
rooms that its files import; these lines make a graph without a circle, so every arrow points down.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("analyze", "configs", "data", "extract", "train")
DRAWERS = {"utils", "util", "common", "base", "misc", "helpers"}
MAX_LINES = 300
MAX_FILES = 12
# Interchangeable siblings of one contract may share a stem; all else that does is two ideas.
SHARED_STEMS = {"cli", "catalogue"}


def source_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


SOURCES = source_files()
MODULES = [path for path in SOURCES if path.name != "__init__.py"]
NAMES = {module_of(path) for path in MODULES}
ROOMS = sorted(module_of(path) for path in SOURCES if path.name == "__init__.py")


def imports_of(tree: ast.AST) -> set[str]:
    """Modules of this project that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update(deeper & NAMES or {node.module})
    return {name for name in names if name.split(".")[0] in PACKAGES}


def room_of(module: str) -> str:
    return module if module in ROOMS else module.rpartition(".")[0]


def imports_in(path: Path) -> set[str]:
    return imports_of(ast.parse(path.read_text(encoding="utf-8")))


def allowed_of(docstring: str) -> set[str]:
    """Rooms that a docstring says may be imported; ValueError if it does not say."""
    _, found, line = docstring.partition("May import: ")
    if not found or "\n\n" in line.strip():
        raise ValueError("the docstring does not end with a line `May import: ...`")
    text = " ".join(line.split()).removesuffix(".")
    return set() if text == "nothing of this project" else set(text.split(", "))


def docstring_of(room: str) -> str:
    path = ROOT / room.replace(".", "/") / "__init__.py"
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def imports_of_doors(room: str) -> set[str]:
    """Modules behind the doors of a room's `__init__`, and the one that makes them."""
    return imports_in(ROOT / room.replace(".", "/") / "__init__.py")


def files_of(room: str) -> list[Path]:
    return [path for path in MODULES if room_of(module_of(path)) == room]


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_file_imports_only_rooms_that_its_own_may_import(path: Path) -> None:
    room = room_of(module_of(path))
    others = {room_of(name) for name in imports_in(path)} - {room}
    extra = others - allowed_of(docstring_of(room))
    assert not extra, f"{shown(path)} imports {sorted(extra)}: {room}/__init__.py does not allow it"


@pytest.mark.parametrize("room", ROOMS)
def test_room_says_what_it_is_for_and_names_no_room_that_it_does_not_import(room: str) -> None:
    docstring = docstring_of(room)
    assert docstring.partition("May import: ")[0].strip()
    used = {room_of(name) for path in files_of(room) for name in imports_in(path)}
    assert allowed_of(docstring) <= used | {room_of(name) for name in imports_of_doors(room)}


@pytest.mark.parametrize("package", PACKAGES)
def test_doors_of_a_package_lead_into_its_own_rooms(package: str) -> None:
    others = {name for name in imports_of_doors(package) if name.split(".")[0] != package}
    # load_images is what one extracts from.
    shared = {"data.images.image_sets"} if package == "extract" else set()
    assert others <= {"configs.doors"} | shared


def test_rooms_import_each_other_without_a_circle() -> None:
    try:
        TopologicalSorter({room: allowed_of(docstring_of(room)) for room in ROOMS}).prepare()
    except CycleError as error:
        pytest.fail(f"rooms in a circle: {error.args[1]}")


@pytest.mark.parametrize("room", ROOMS)
def test_files_of_a_room_import_each_other_without_a_circle(room: str) -> None:
    graph = {module_of(path): imports_in(path) & NAMES for path in files_of(room)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"files in a circle: {error.args[1]}")


@pytest.mark.parametrize("room", ROOMS)
def test_room_holds_at_most_twelve_files(room: str) -> None:
    assert len(files_of(room)) <= MAX_FILES


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_file_is_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_file_has_only_absolute_imports(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    relative = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    assert not relative, f"relative imports at lines {relative}"


def test_no_file_is_a_drawer() -> None:
    assert not [shown(path) for path in SOURCES if path.stem.strip("_") in DRAWERS]


def test_no_two_files_of_one_name_hold_different_ideas() -> None:
    found = defaultdict(list)
    for path in MODULES:
        found[path.stem].append(shown(path))
    twice = {stem: paths for stem, paths in found.items() if len(paths) > 1}
    assert twice.keys() <= SHARED_STEMS, twice


def test_no_two_public_classes_have_one_name() -> None:
    found = defaultdict(list)
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(shown(path))
    assert not {name: paths for name, paths in found.items() if len(paths) > 1}


def test_tests_mirror_the_rooms() -> None:
    others = {"benchmarks", "commands", "house", "support"}
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.relative_to(ROOT / "tests").parent
        assert folder.parts, f"{path.name} lies in no room's folder"
        assert folder.parts[0] in others or ".".join(folder.parts) in ROOMS, str(folder)


def test_import_check_sees_an_upward_import_in_each_spelling() -> None:
    for line in (
        "import train.study.study",
        "from train.study import study",
        "from train.study.study import run_study",
        "def f():\n    from train.study.study import run_study",
    ):
        assert imports_of(ast.parse(line)) == {"train.study.study"}


def test_a_docstring_that_does_not_say_what_may_be_imported_is_refused() -> None:
    assert allowed_of("What.\n\nMay import: a.b,\nc.") == {"a.b", "c"}
    assert allowed_of("What.\n\nMay import: nothing of this project.") == set()
    for wrong in ("What.", "What.\n\nMay import: a.\n\nAnd more."):
        with pytest.raises(ValueError, match="May import"):
            allowed_of(wrong)
