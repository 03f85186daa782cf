"""A run is known again by its settings: those that train another model, and no others."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.config_files import check_config
from configs.errors import ConfigError, PassingError, UserError
from configs.schema.config import Config
from tests.support.refused_files import refuse_to_open
from train.runs.run_folder import (
    CONFIG_NAME,
    code_fingerprints,
    locked,
    make_run_folder,
    same_run_before,
)
from train.runs.run_record import RECORD_NAME, RunRecord

NO_LEVELS = ["..", "../../x", "", "7", -1, True, None, [0], 1.5]

SETTINGS = {"model": {"stages": 2}, "training": {"epochs": 3}}
CACHES = {"train": "a" * 64, "val": "b" * 64}


def with_model(**model: Any) -> Config:
    return check_config({**SETTINGS, "model": {"stages": 2, **model}}, "test")


def make_run(parent: Path, config: Config, fingerprints: Mapping[str, str] = CACHES) -> Path:
    folder = make_run_folder(parent, config, datetime(2025, 1, 2))
    RunRecord(
        level=0, lmbda=0.001, cache_fingerprints=dict(fingerprints), detector_weights_sha256="d",
        versions={}, seed=0, device="cpu", precision="float32", machine="", num_processes=1,
        num_threads=1, started="",
    ).save(folder)  # fmt: skip
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of SETTINGS."""
    return make_run(tmp_path, with_model())


def found(run: Path, config: Config) -> bool:
    return same_run_before(run.parent, config, CACHES) is not None


def test_a_run_of_before_there_were_options_and_fast_cpu_is_the_same_run(run: Path) -> None:
    raw = yaml.safe_load((run / CONFIG_NAME).read_text(encoding="utf-8"))
    del raw["model"]["options"], raw["model"]["fast_cpu"]
    (run / CONFIG_NAME).write_text(yaml.safe_dump(raw), encoding="utf-8")
    assert found(run, with_model())


def test_where_maps_lie_does_not_make_another_run_nor_is_it_missed_in_an_older_one(
    run: Path,
) -> None:
    raw = yaml.safe_load((run / CONFIG_NAME).read_text(encoding="utf-8"))
    del raw["training"]["resident"]
    (run / CONFIG_NAME).write_text(yaml.safe_dump(raw), encoding="utf-8")
    always = {"epochs": 3, "resident": "always"}
    assert found(run, check_config({**SETTINGS, "training": always}, "test"))


def test_how_a_cpu_computes_does_not_make_another_run(run: Path) -> None:
    assert found(run, with_model(fast_cpu="never"))


def test_a_run_of_before_steps_were_compiled_by_themselves_is_the_same_run(tmp_path: Path) -> None:
    def compiled(setting: bool | str) -> Config:
        return check_config({"training": {"compile": setting}}, "test")

    run = make_run(tmp_path, compiled(False))
    assert found(run, compiled("auto"))
    assert not found(run, compiled(True))
    raw = json.loads((run / RECORD_NAME).read_text(encoding="utf-8"))
    del raw["compiled"], raw["compile_reason"]
    (run / RECORD_NAME).write_text(json.dumps(raw), encoding="utf-8")
    assert RunRecord.load(run).compiled is False  # so it goes on as it began


def test_path_of_a_file_of_channel_weights_does_not_make_another_run(tmp_path: Path) -> None:
    def with_weights(path: str) -> Config:
        training = {"distortion": "channel_weighted", "channel_weights": path}
        return check_config({"training": training}, "test")

    run = make_run(tmp_path, with_weights("/here/weights.json"))
    assert found(run, with_weights("weights.json"))  # whose content the fingerprints compare
    assert not found(run, with_weights("variance"))


def test_start_that_is_named_by_another_path_does_not_make_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started_from(path: str) -> Config:
        return check_config({"training": {"init_from": path}}, "test")

    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path, started_from(f"{tmp_path}/start"))
    assert found(run, started_from("start"))
    assert not found(run, started_from("other"))


def test_another_model_or_other_options_make_another_run(run: Path) -> None:
    assert not found(run, with_model(stages=3))
    own = [with_model(name="own:Codec", options={"width": width}) for width in (1, 2)]
    (run / CONFIG_NAME).write_text(yaml.safe_dump(own[0].model_dump(mode="json", by_alias=True)))
    assert [found(run, config) for config in own] == [True, False]


def test_changed_code_of_ones_own_makes_another_run_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_losses.py").write_text("def huber(x_hat, x): ...\n")
    raw = {**SETTINGS, "training": {"epochs": 3, "distortion": "own_losses:huber"}}
    config = check_config(raw, "test")
    runs = tmp_path / "runs"
    before_codes = make_run(runs, config)
    assert code_fingerprints(config).keys() == {"training.distortion"}
    assert same_run_before(runs, config, CACHES | code_fingerprints(config)) is None
    run = make_run(runs, config, CACHES | code_fingerprints(config))
    caplog.clear()
    known = same_run_before(runs, config, CACHES | code_fingerprints(config))
    assert known is not None
    assert known[0] == run != before_codes
    assert caplog.messages == []

    (tmp_path / "own_losses.py").write_text("def huber(x_hat, x): return x\n")
    assert same_run_before(runs, config, CACHES | code_fingerprints(config)) is None
    (line,) = caplog.messages
    assert line.startswith(f"{run}: is of other code of training.distortion: beginning anew")
    other_caches = {"train": "c" * 64, "val": "b" * 64}
    assert same_run_before(runs, config, other_caches | code_fingerprints(config)) is None
    assert caplog.messages == [line], "of other caches: not for its code"


def test_what_is_ours_has_no_code_in_the_record() -> None:
    assert code_fingerprints(with_model()) == {}


def test_run_that_cannot_be_read_for_now_is_not_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = check_config(SETTINGS, "test")
    run = make_run(tmp_path, config)
    for name in (RECORD_NAME, CONFIG_NAME):
        with monkeypatch.context() as busy:
            refuse_to_open(busy, errno.EMFILE, lambda path, _, name=name: path == run / name)
            with pytest.raises(PassingError, match=rf"{name}: cannot be read \(Too many open"):
                same_run_before(tmp_path, config, CACHES)
    assert same_run_before(tmp_path, config, CACHES) is not None


@pytest.mark.parametrize("level", NO_LEVELS, ids=repr)
def test_level_of_a_record_which_names_folders_is_a_number_or_random(
    tmp_path: Path, level: object
) -> None:
    folder = make_run(tmp_path, with_model())
    content = json.loads((folder / RECORD_NAME).read_text())
    (folder / RECORD_NAME).write_text(json.dumps(content | {"level": level}))
    with pytest.raises(ConfigError, match=r"run\.json: missing or damaged \(level") as caught:
        RunRecord.load(folder)
    assert "\n" not in str(caught.value)


ODD_RECORDS = [
    ({"lmbda": "0.1x"}, "lmbda"),
    ({"lmbda": float("nan")}, "lmbda"),
    ({"cache_fingerprints": []}, "cache_fingerprints"),
    ({"warm_start": {}}, "warm_start"),
    ({"warm_start": {"model_sha256": "a", "folder": "b"}}, "warm_start"),
    ({"seconds": None}, "seconds"),
]


@pytest.mark.parametrize(("changes", "key"), ODD_RECORDS, ids=lambda value: str(value)[:30])
def test_record_whose_values_cannot_be_is_refused_in_one_line_that_says_which(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    folder = make_run(tmp_path, with_model())
    content = json.loads((folder / RECORD_NAME).read_text())
    (folder / RECORD_NAME).write_text(json.dumps(content | changes))
    with pytest.raises(ConfigError, match=rf"missing or damaged \({key}.*: start the run anew"):
        RunRecord.load(folder)


def test_run_is_held_by_one_process_though_the_lock_is_let_go_while_another_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that the second has opened is then the lock of nobody."""
    flock, done = fcntl.flock, []
    first = locked(tmp_path)
    first.__enter__()

    def after_the_first(handle: int, kind: int) -> None:
        if not done:
            done.append(first.__exit__(None, None, None))
        flock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", after_the_first)
    with (
        locked(tmp_path),
        pytest.raises(UserError, match="another process trains"),
        locked(tmp_path),
    ):
        raise AssertionError("two processes hold one run")
    assert not list(tmp_path.iterdir())
