"""A codec's checkpoint from a loop of one's own is read as ours, or its true fault is named."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import ConfigError
from tests.support.tiny_codecs import PROVENANCE, tiny_codec
from tests.support.tiny_study import tiny_config
from train.runs.checkpoint import encode_checkpoint, load_codec, load_weights

Content = dict[str, Any]


def encoded(state: Content | None = None, levels: tuple[int, ...] = (2,)) -> bytes:
    return encode_checkpoint(
        state or tiny_codec().state_dict(), tiny_config(), PROVENANCE,
        levels=levels, epoch=5, best_validation_loss=0.25,
    )  # fmt: skip


def renamed(state: Content, beginning: str) -> Content:
    return {beginning + key: tensor for key, tensor in state.items()}


@pytest.fixture(scope="module")
def model_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("usual") / "best_model.pth"
    path.write_bytes(encoded())
    return load_codec(path)[1].model_sha256


@pytest.mark.parametrize(
    "beginning", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "an average"]
)
def test_names_that_a_loop_makes_of_the_layers_are_the_codecs_own(
    tmp_path: Path, model_sha256: str, beginning: str
) -> None:
    state = tiny_codec().state_dict()
    changed = renamed(state, "module." if beginning == "an average" else beginning)
    if beginning == "an average":
        changed["n_averaged"] = torch.tensor(3)
    path = tmp_path / "best_model.pth"
    path.write_bytes(encoded(changed))
    assert load_codec(path)[1].model_sha256 == model_sha256
    assert load_weights(path).keys() == state.keys()  # what --init-from begins with


def test_checkpoint_that_another_program_saved_again_is_read_with_a_warning(
    tmp_path: Path, model_sha256: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "best_model.pth"
    content = torch.load(io.BytesIO(encoded()), weights_only=True)
    content |= {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)}
    torch.save(content, path)
    assert load_codec(path)[1].model_sha256 == model_sha256
    assert "was written by another program, without a checksum to compare" in caplog.text


@pytest.mark.parametrize(
    ("save", "told"),
    [
        (
            lambda path: torch.save(tiny_codec().state_dict(), path),
            "was not written by train-level, and does not say which levels and settings its",
        ),
        (
            lambda path: torch.save({"state_dict": tiny_codec().state_dict(), "epoch": 3}, path),
            "was not written by train-level, and does not say which levels and settings its",
        ),
        (
            lambda path: path.write_bytes(encoded(levels=(2, 3))),
            "says that it serves 2 levels, its weights are of 1: write the levels that it was",
        ),
        (
            lambda path: path.write_bytes(encoded(tiny_codec(stages=3).state_dict())),
            "its weights do not fit factorized_prior_specific_level as it is now: write the",
        ),
        (
            lambda path: path.write_bytes(encoded()[:-1] + b"?"),
            "not a checkpoint of train-level, or damaged (its checksum does not match)",
        ),
    ],
)
def test_checkpoint_that_cannot_be_used_names_its_true_fault(
    tmp_path: Path, save: Callable[[Path], None], told: str
) -> None:
    path = tmp_path / "best_model.pth"
    save(path)
    with pytest.raises(ConfigError) as caught:
        load_codec(path)
    assert str(caught.value).startswith(f"{path}: {told}")
    assert "\n" not in str(caught.value)
