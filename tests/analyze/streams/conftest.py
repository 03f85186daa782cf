"""A split that was sent, for the tests of this room."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from analyze.streams_cli import decompress_features
from tests.support.coded_study import make_run, must_compress
from tests.support.forked import result_of
from tests.support.tiny_study import TinyStudy


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
    result_of(_decode, root)
    return Sent(
        study=study, runs=runs, streams=root / "streams", printed=printed, decoded=root / "decoded"
    )


def _decode(root: Path) -> None:
    os.chdir(root)
    torch.set_num_threads(1)
    decompress_features(["streams", "--out", "decoded", "--device", "cpu"], standalone_mode=False)
