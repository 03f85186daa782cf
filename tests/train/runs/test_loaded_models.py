"""Loaded models: each checkpoint is read once, each codec is its caller's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs.errors import ConfigError
from tests.support.coded_study import make_run
from tests.support.openings import of_name, openings
from tests.support.tiny_study import TinyStudy
from train.runs.checkpoint import BEST_NAME, load_codec
from train.runs.loaded_models import LoadedModels


@pytest.fixture(scope="module")
def runs(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run of level 3, and one of the levels 3 and 4."""
    folder = tmp_path_factory.mktemp("runs").resolve()
    return [make_run(folder / "one", study, 3), make_run(folder / "two", study, 3, 4, seed=1)]


def test_facts_and_codecs_are_those_of_the_checkpoint_which_is_read_once(runs: list[Path]) -> None:
    models = LoadedModels(torch.device("cpu"))
    x = torch.randn(1, 256, 5, 7, generator=torch.Generator().manual_seed(0))
    with openings() as counted, torch.no_grad():
        info = models.info(runs[1])
        found = [models.codec(str(runs[1]), level=level)(x)["x_hat"] for level in (3, 4, 3)]
    assert of_name(counted, BEST_NAME) == {runs[1]: 1}
    for level, x_hat in zip((3, 4, 3), found, strict=True):
        codec, expected = load_codec(str(runs[1] / BEST_NAME), torch.device("cpu"), level=level)
        with torch.no_grad():
            assert torch.equal(x_hat, codec(x)["x_hat"])
        assert info == expected


def test_what_a_caller_does_to_its_codec_is_not_seen_by_the_next(runs: list[Path]) -> None:
    models = LoadedModels()
    changed = models.codec(runs[0])
    before = changed.mean.clone()
    changed.mean.zero_()
    assert torch.equal(models.codec(runs[0]).mean, before)


@pytest.mark.parametrize(
    ("fast_cpu", "expected"), [(None, False), ("auto", False), ("never", True)]
)
def test_a_command_may_forbid_the_fast_way_whatever_the_run_says(
    runs: list[Path], fast_cpu: str | None, expected: bool
) -> None:
    models = LoadedModels(fast_cpu=fast_cpu)
    assert models.codec(runs[0]).layer_by_layer == expected
    assert models.is_layer_by_layer(runs[0]) == expected


def test_weights_beyond_the_limit_go_and_are_read_again(runs: list[Path]) -> None:
    models = LoadedModels(most_bytes=1)
    with openings() as counted:
        for run in (*runs, *runs):
            models.info(run)
        assert sum(of_name(counted, BEST_NAME).values()) == 2
        models.codec(runs[1])
        assert of_name(counted, BEST_NAME) == {runs[0]: 1, runs[1]: 1}
        models.codec(runs[0])
        assert of_name(counted, BEST_NAME) == {runs[0]: 2, runs[1]: 1}


def test_best_model_that_was_replaced_meanwhile_is_an_error(
    study: TinyStudy, runs: list[Path], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", study, 3)
    models = LoadedModels(most_bytes=1)
    models.info(run)
    models.info(runs[0])
    other = make_run(tmp_path / "other", study, 3, seed=5)
    (other / BEST_NAME).replace(run / BEST_NAME)
    with pytest.raises(ConfigError, match="its best model is another one than a moment ago"):
        models.codec(run)


def test_level_that_a_run_does_not_serve_is_an_error(runs: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"best_model\.pth: serves the levels \[3\], not level 0"):
        LoadedModels().codec(runs[0], level=0)
