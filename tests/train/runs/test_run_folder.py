"""A run is known again by its settings: those that train another model, and no others."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.config_files import check_config
from configs.schema.config import Config
from train.runs.run_folder import CONFIG_NAME, RunRecord, make_run_folder, same_run_before

SETTINGS = {"model": {"stages": 2}, "training": {"epochs": 3}}
CACHES = {"train": "a" * 64, "val": "b" * 64}


def with_model(**model: Any) -> Config:
    return check_config({**SETTINGS, "model": {"stages": 2, **model}}, "test")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of SETTINGS."""
    folder = make_run_folder(tmp_path, with_model(), datetime(2025, 1, 2))
    RunRecord(
        level=0, lmbda=0.001, cache_fingerprints=CACHES, detector_weights_sha256="d", versions={},
        seed=0, device="cpu", precision="float32", machine="", num_processes=1, num_threads=1,
        started="",
    ).save(folder)  # fmt: skip
    return folder


def found(run: Path, config: Config) -> bool:
    return same_run_before(run.parent, config, CACHES) is not None


def test_a_run_of_before_there_were_options_and_fast_cpu_is_the_same_run(run: Path) -> None:
    raw = yaml.safe_load((run / CONFIG_NAME).read_text(encoding="utf-8"))
    del raw["model"]["options"], raw["model"]["fast_cpu"]
    (run / CONFIG_NAME).write_text(yaml.safe_dump(raw), encoding="utf-8")
    assert found(run, with_model())


def test_how_a_cpu_computes_does_not_make_another_run(run: Path) -> None:
    assert found(run, with_model(fast_cpu="never"))


def test_another_model_or_other_options_make_another_run(run: Path) -> None:
    assert not found(run, with_model(stages=3))
    own = [with_model(name="own:Codec", options={"width": width}) for width in (1, 2)]
    (run / CONFIG_NAME).write_text(yaml.safe_dump(own[0].model_dump(mode="json", by_alias=True)))
    assert [found(run, config) for config in own] == [True, False]
