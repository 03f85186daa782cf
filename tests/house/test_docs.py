"""The pages tell the truth: commands parse, Python runs, YAML is valid, links lead somewhere."""

from __future__ import annotations

import configparser
import importlib
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from analyze.anchors.names import anchors_of
from analyze.cli import target_of
from analyze.streams_cli import check_source
from configs.config_files import check_config
from tests.support.coded_study import make_run
from tests.support.extraction import must_extract
from tests.support.pages import (
    PAGES,
    ROOT,
    SCRIPT,
    blocks_of,
    command_of,
    commands_shown,
    console_scripts,
    prose_of,
)
from tests.support.tiny_study import TinyStudy
from train.cli import level_of

OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
OF_OTHERS = {
    "--no-python", "--nproc-per-node", "--max-restarts", "--gpus", "--gres", "--ipc", "--user",
    "--rm", "--logdir", "--head", "--address", "--format", "--gpus-per-node",
}  # fmt: skip
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(
    r"`((?:configs|docs|tests|data|extract|train|analyze|\.ci|\.github)/[^`*<> ]+"
    r"\.(?:yaml|yml|md|py|sh|pth))`"
)
# Run by `make docs`, as a notebook and to the end.
TUTORIAL = ROOT / "docs" / "tutorial.md"
WITH_PYTHON = [page for page in PAGES if page != TUTORIAL and blocks_of(page, "python")]
SETTINGS_PAGES = [page for page in PAGES if blocks_of(page, "yaml")]


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def options_of(name: str) -> set[str]:
    """Options of a console script (from click) or of the shell script (from its --help)."""
    if name == SCRIPT:
        told = subprocess.run([ROOT / SCRIPT, "--help"], check=True, capture_output=True)
        return set(OPTION.findall(told.stdout.decode()))
    options = [each for each in command_of(name).params if isinstance(each, click.Option)]
    return {"--help"} | {text for each in options for text in (*each.opts, *each.secondary_opts)}


COMMANDS_SHOWN = [
    pytest.param(words, id=f"{shown(page)}: {' '.join(words)[:80]}")
    for page in PAGES
    for words in commands_shown(page)
]


@pytest.mark.parametrize("words", COMMANDS_SHOWN)
def test_a_command_that_a_page_shows_can_be_typed(words: list[str]) -> None:
    name = words[0].removeprefix("./")
    if name == SCRIPT:
        assert {word for word in words if word.startswith("--")} <= options_of(name)
        return
    # Parses and checks each value, as the command itself would; then it stops.
    given = command_of(name).make_context(name, words[1:]).params
    if name == "analyze-levels":
        anchors_of(given["anchors"])
        target_of(given["target_bpp"], given["target_map_drop"], given["target_mse"])
    elif name == "compress-features":
        asked = ("runs", "ensemble", "per_image", "candidates", "slope", "target_bpp")
        check_source(**{each: given[each] for each in asked})
    elif name == "train-level" and given["resume"] in ("auto", "never"):
        level_of(str(given["level"]).replace("$SLURM_ARRAY_TASK_ID", "0"))


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_each_option_that_a_page_mentions_exists_somewhere(page: Path) -> None:
    known = {option for name in (*console_scripts(), SCRIPT) for option in options_of(name)}
    inline = " ".join(re.findall(r"`([^`]+)`", prose_of(page)))
    assert set(OPTION.findall(inline)) <= known | OF_OTHERS


@pytest.mark.parametrize("page", SETTINGS_PAGES, ids=shown)
def test_yaml_of_a_page_is_a_valid_configuration(page: Path) -> None:
    for block in blocks_of(page, "yaml"):
        check_config(yaml.safe_load(_numbers(block.code)), shown(page))


def _numbers(text: str) -> str:
    """Spell 2e-3 as YAML 1.1 reads it; the commands' own loader takes both."""
    return re.sub(r"\b(\d+)e(-?\d+)\b", r"\1.0e\2", text)


@pytest.fixture(scope="module")
def work_folder(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages' reader has it: both caches, in both containers, a run, settings."""
    folder = tmp_path_factory.mktemp("pages")
    caches = folder / "features" / "scenes"
    shutil.copytree(study.root, caches)
    hdf5 = must_extract(
        study.config_file, folder / "hdf5", "--container", "hdf5", "--levels", "0", split="val"
    )
    shutil.copytree(hdf5 / "level_0", caches / "val" / "level_0")
    make_run(folder / "run_folder", study, 0)
    for level in range(4):
        make_run(folder / "runs" / f"level_{level}", study, level)
    shutil.copy(study.config_file, folder / "tiny.yaml")
    return folder


@pytest.mark.parametrize("page", WITH_PYTHON, ids=shown)
def test_python_of_a_page_runs_from_its_first_line_to_its_last(
    page: Path, work_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = blocks_of(page, "python")
    if any("import zarr" in block.code for block in blocks):
        pytest.importorskip("zarr", reason="zarr-python 3 needs Python 3.11")
    monkeypatch.chdir(work_folder)
    monkeypatch.syspath_prepend(str(work_folder))
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        if block.title:
            Path(block.title).write_text(block.code, encoding="utf-8")
            importlib.import_module(Path(block.title).stem)
        else:
            exec(compile(block.code, shown(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_of_a_page_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in LINK.findall(prose_of(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), f"{shown(page)} links to {target}"
        if heading:
            assert heading in _anchors(file), f"{shown(page)} links to {target}"


def _anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as MkDocs and GitHub make them."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
    return {re.sub(r"\s+", "-", title) for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_each_file_of_the_project_that_a_page_names_exists(page: Path) -> None:
    missing = [name for name in NAMED_FILE.findall(prose_of(page)) if not (ROOT / name).is_file()]
    assert not missing


def test_the_site_shows_each_page_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = sorted(_files(site["nav"]))
    assert listed == sorted(str(p.relative_to(ROOT / "docs")) for p in PAGES if "docs" in p.parts)


def _files(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    assert not isinstance(parts, str)
    return [name for part in parts for name in _files(part)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", console_scripts())
def test_each_command_has_a_page_with_its_options(name: str) -> None:
    text = (ROOT / "docs" / "commands" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert text.endswith(f"## Options\n\n::: options {name}\n")


def test_many_runs_page_has_the_lines_that_users_copy() -> None:
    page = (ROOT / "docs" / "how-to" / "many-runs.md").read_text(encoding="utf-8")
    default = "configs/train_factorized_prior_specific_level_fpn.yaml"
    for line in (
        f"sed 's/lambda: 0.001/lambda: 0.0005/' {default} > temp_config.yaml",
        'grep "Best Validation Loss:" "$summary_file" | cut -d\' \' -f4',
        "find checkpoints/fpn_specific_level_compression_level_$level -name training_summary.txt"
        " -exec cat {} \\;",
    ):
        assert line in page


def test_dockerfile_copies_what_there_is_and_git_has() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    sources = [
        name for line in re.findall(r"^COPY (.+)$", dockerfile, re.M) for name in line.split()[:-1]
    ]
    assert {"setup.cfg", "README.md", "LICENSE", "extract"} <= set(sources)
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sorted(line[1:] for line in ignore if line.startswith("!")) == sorted(sources)
    tracked = subprocess.run(["git", "ls-files", *sources], cwd=ROOT, capture_output=True)
    found = {line.split("/")[0] for line in tracked.stdout.decode().splitlines()}
    assert found == set(sources)


def test_continuous_integration_runs_each_python_that_setup_cfg_names() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["ci"]
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    named = re.findall(r"Python :: (3\.\d+)$", parser["metadata"]["classifiers"], re.M)
    assert job["strategy"]["matrix"]["python"] == named
    assert job["env"]["PYTHON"] == "python${{ matrix.python }}"
    assert job["steps"][-1] == {"run": ".ci/run"}


def test_changelog_and_citation_have_the_version_of_the_package() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    version = parser["metadata"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$", changelog, re.M)
    # Between releases the package bears the next one's name, and the changelog collects for it.
    assert version == released[0][0] or (
        version.endswith(".dev0") and "\n## Unreleased\n" in changelog
    )
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], str(citation["date-released"])) == released[0]
