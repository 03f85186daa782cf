"""A distortion of one's own is a function by its name; what it returns is checked."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.errors import ConfigError
from data.reading.level_reader import LevelReader
from tests.support.tiny_study import TinyStudy, tiny_config
from tests.support.training_process import rows_without_times
from train.loop.job import Job
from train.loop.run import train_level
from train.objective.catalogue import distortions
from train.runs.run_folder import load_run_config
from train.runs.run_record import RunRecord

OWN = """
def absolute(x_hat, x):
    return (x_hat - x).abs()

def mean(x_hat, x):
    return absolute(x_hat, x).mean()

def number(x_hat, x):
    return 3.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with own_errors.py in it."""
    (tmp_path / "own_errors.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_training_minimises_ones_own_function_and_the_run_names_it(
    study: TinyStudy, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=4, device="cpu", out=folder,
        config=tiny_config(epochs=1, distortion="own_errors:absolute"),
    )  # fmt: skip
    run = train_level(job)
    assert load_run_config(run).training.distortion == "own_errors:absolute"
    (row,) = rows_without_times(run)
    error = float(row["val_loss"]) - 0.001 * float(row["val_bpp"])
    assert 0 < error < float(row["val_mse"]) ** 0.5, "a mean absolute error is below the root"
    assert error > 0.1 * float(row["val_mse"]) ** 0.5

    (folder / "own_errors.py").write_text(f"{OWN}# the same, said otherwise\n")
    assert RunRecord.load(run).cache_fingerprints != job.fingerprints()
    caplog.set_level(logging.INFO)
    train_level(replace(job, resume=run))
    assert f"{run}: goes on, with other code of training.distortion than it had" in caplog.messages
    assert RunRecord.load(run).cache_fingerprints == job.fingerprints()


def test_each_level_has_the_function_itself(study: TinyStudy, folder: Path) -> None:
    config = tiny_config(distortion="own_errors:absolute")
    with LevelReader(study.train_cache, 4) as reader:
        (error,) = distortions(config, [reader], "cpu")
    x_hat, x = torch.tensor([[[[1.0, -2.0]]]]), torch.tensor([[[[3.0, 1.0]]]])
    assert torch.equal(error(x_hat, x), torch.tensor([[[[2.0, 3.0]]]]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_errors:mean", "'own_errors:mean' returns [] for maps of [1, 2, 3, 4]: return the"),
        ("own_errors:number", "'own_errors:number' returns float for maps of [1, 2, 3, 4]"),
        ("own_errors:abs", "has no 'abs': mend the name"),
        ("own_absent:error", "No module named 'own_absent'"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(
    study: TinyStudy, folder: Path, name: str, message: str
) -> None:
    maps = torch.zeros(1, 2, 3, 4)
    with (
        LevelReader(study.train_cache, 4) as reader,
        pytest.raises(ConfigError, match=re.escape(message)) as raised,
    ):
        distortions(tiny_config(distortion=name), [reader], "cpu")[0](maps, maps)
    assert str(raised.value).startswith("training.distortion: ")
