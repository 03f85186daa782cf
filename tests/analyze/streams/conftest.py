"""A split that was sent, for the tests of this room."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.coded_study import make_run, must_compress
from tests.support.tiny_study import TinyStudy

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """The study's split val, compressed by one run of each level 0 to 3, and decoded again."""

    study: TinyStudy
    runs: list[Path]
    streams: Path
    printed: str
    decoded: Path


@pytest.fixture(scope="session")
def sent(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """Compressed here, decoded in another process. Level 1 has a hyperprior."""
    root = tmp_path_factory.mktemp("sent")
    runs = [
        make_run(
            root / "checkpoints" / f"tiny_level_{level}" / "run_1", study, level, seed=level,
            **({"name": "mean_scale_hyperprior"} if level == 1 else {}),
        )
        for level in range(4)
    ]  # fmt: skip
    printed = must_compress(study, root / "streams", runs)
    script = "from analyze.streams_cli import decompress_features; decompress_features()"
    command = [sys.executable, "-c", script, root / "streams", "--out", root / "decoded"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    subprocess.run(
        [*map(str, command), "--device", "cpu"], check=True, env=environment, cwd=root, timeout=120
    )
    return Sent(
        study=study, runs=runs, streams=root / "streams", printed=printed, decoded=root / "decoded"
    )
