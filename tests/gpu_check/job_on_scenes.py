"""The job on the built-in scenes."""

from __future__ import annotations

from pathlib import Path

from tests.gpu_check.findings import Findings
from tests.gpu_check.settings import Settings
from tests.gpu_check.user_job import do_job


def run(settings: Settings, scratch: Path, findings: Findings) -> None:
    """Take as many scenes as `make quickstart`; a few on a CPU."""
    num_train, num_val = (6, 3) if settings.is_small else (128, 32)
    splits = {
        "train": {"num_scenes": num_train, "scene_seed": 1},
        "val": {"num_scenes": num_val, "scene_seed": 2},
    }
    data = {"name": "scenes", "splits": splits}
    do_job(settings, scratch, findings, title="scenes", sections={"data": data})
