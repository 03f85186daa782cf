"""The front step: help and mistyped options are answered before anything heavy is imported."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from analyze.anchors.catalogue import ANCHORS
from analyze.anchors.names import ANCHOR_NAMES, FAST_ANCHORS
from tests.benchmarks.startup import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch", "torchvision", "compressai", "numba", "numpy", "zarr", "h5py", "matplotlib", "pandas",
    "PIL", "av", "pycocotools", "scipy", "pydantic", "yaml", "tensorboard", "configs.schema.config",
)  # fmt: skip
ANSWER = """
import sys
from {module} import {function} as command
try:
    command({arguments}, prog_name="command")
finally:
    print("loaded:", *(name for name in {heavy} if name in sys.modules), file=sys.stderr)
"""


def loaded_by(script: str) -> tuple[int, str, set[str]]:
    """Exit code and error output of a script, and which packages its last line says it loaded."""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    told, _, loaded = done.stderr.rpartition("loaded:")
    return done.returncode, told + done.stdout, set(loaded.split())


def answer_of(command: str, *arguments: str) -> tuple[int, str, set[str]]:
    module, function = COMMANDS[command].split(":")
    return loaded_by(
        ANSWER.format(module=module, function=function, arguments=list(arguments), heavy=HEAVY)
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_that_is_heavy(command: str) -> None:
    code, told, loaded = answer_of(command, "--help")
    assert (code, loaded) == (0, set()), told
    assert told.startswith("Usage: command")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_option_is_refused_before_anything_heavy_is_loaded(command: str) -> None:
    code, told, loaded = answer_of(command, "--no-such-option")
    assert (code, loaded) == (2, set()), told
    assert "No such option" in told


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            "analyze-levels --anchors unifor",
            "--anchors unifor: there is none of this name: did you mean 'uniform'?: use uniform, "
            "klt, hevc-8, hevc-10, av1-8, av1-10, float16, image-jpeg, image-webp, image-hevc, "
            "image-av1, your own package.module:name, or one of fast, images, all, none",
        ),
        (
            "analyze-levels --target-bpp 1 --target-mse 1",
            "--target-bpp, --target-map-drop and --target-mse: give one of them, not several",
        ),
        ("train-level", "--level: say which: 0 to 4, all, random, or fused"),
        (
            "train-level --level fine",
            "--level fine: use a level's number (0 is the finest), all, random, or fused",
        ),
        (
            "train-level --level 0 --lambda nan",
            "--lambda nan: use a finite number, 0 or more",
        ),
        (
            "train-level --resume tests --set training.epochs=1",
            "--resume tests: no run: it holds no config.yaml: name a run folder",
        ),
        (
            "train-level --resume nowhere",
            "--resume nowhere: no such folder: use auto, never or a run folder",
        ),
        (
            "compress-features --features nowhere --out nowhere",
            "compress-features: give either --run (repeatable) or --ensemble",
        ),
        (
            "compress-features --features nowhere --out nowhere --run a --ensemble b",
            "compress-features: give either --run (repeatable) or --ensemble",
        ),
    ],
)
def test_wrong_usage_is_one_line_before_anything_heavy_is_loaded(typed: str, line: str) -> None:
    command, *arguments = typed.split()
    assert answer_of(command, *arguments) == (1, f"Error: {line}\n", set())


@pytest.mark.parametrize("command", ["extract-features", "train-level", "analyze-levels"])
def test_a_mistyped_setting_is_refused_before_torch_is_loaded(command: str) -> None:
    needed = {"extract-features": ["--split", "train"], "train-level": ["--level", "0"]}
    code, told, loaded = answer_of(command, *needed.get(command, []), "--set", "trainning.epochs=1")
    assert (code, "torch" in loaded) == (1, False), told
    assert "did you mean 'training'" in told


def test_extraction_loads_no_codec() -> None:
    told = "print('loaded:', *({'compressai', 'matplotlib'} & sys.modules.keys()), file=sys.stderr)"
    work = "extract.dry_run.estimate, extract.features.extraction"
    code, output, loaded = loaded_by(f"import sys, {work}\n{told}")
    assert (code, loaded) == (0, set()), output


def test_anchors_that_help_names_are_those_that_there_are() -> None:
    assert tuple(ANCHORS) == ANCHOR_NAMES
    assert set(FAST_ANCHORS) < set(ANCHOR_NAMES)


def test_commands_that_are_timed_are_those_that_pip_installs() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = parser["options.entry_points"]["console_scripts"].strip().splitlines()
    assert lines == [f"{name} = {target}" for name, target in COMMANDS.items()]
