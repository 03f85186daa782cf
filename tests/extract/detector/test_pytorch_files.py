"""Any file of torch.save opens without running its code; what cannot says why, and what to do."""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from configs.errors import ConfigError
from extract.detector.pytorch_files import read_pytorch_file, stands_for

WEIGHT = {"a.weight": torch.arange(3.0)}


class AttributeDict(dict[str, Any]):
    """As Lightning keeps its hyper-parameters."""


class Recipe:
    """Somebody's own class."""

    def __init__(self) -> None:
        self.steps = [1, 2]


class Harm:
    """Runs code when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


BESIDE = {
    "args": argparse.Namespace(lr=0.1, out=Path("a")),
    "hyper_parameters": AttributeDict(lr=1),
    "meters": collections.defaultdict(list, a=[1]),
    "date": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    "config": types.SimpleNamespace(a=3),
    "recipe": Recipe(),
    "version": torch.__version__,
    "loss": nn.functional.relu,
}


@pytest.mark.parametrize("as_zip", [True, False])
def test_weights_are_had_from_beside_objects_of_every_kind(tmp_path: Path, as_zip: bool) -> None:
    path = tmp_path / "file.pth"
    torch.save({"model": WEIGHT} | BESIDE, path, _use_new_zipfile_serialization=as_zip)
    content = read_pytorch_file(path)
    assert torch.equal(content["model"]["a.weight"], WEIGHT["a.weight"])
    assert stands_for(content["args"]) == "argparse.Namespace"
    assert stands_for(content["recipe"]) == f"{__name__}.Recipe"
    assert content["hyper_parameters"] == {"lr": 1}
    assert stands_for(content["model"]) is None


def test_numbers_and_arrays_of_numpy_come_as_they_are(tmp_path: Path) -> None:
    beside = {
        "best": np.float64(0.25), "epoch": np.int64(3), "flag": np.bool_(True),
        "names": np.array(["a", "b"]), "curve": np.arange(3, dtype=np.float32),
    }  # fmt: skip
    torch.save(beside | {"model": WEIGHT}, tmp_path / "file.pth")
    content = read_pytorch_file(tmp_path / "file.pth")
    assert (content["best"], content["epoch"], content["flag"]) == (0.25, 3, True)
    assert content["names"].tolist() == ["a", "b"]
    assert np.array_equal(content["curve"], beside["curve"])


def test_no_code_is_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "file.pth", tmp_path / "mark"
    torch.save({"model": WEIGHT, "x": Harm(eval, f"open({str(mark)!r}, 'w')")}, path)
    assert stands_for(read_pytorch_file(path)["x"]) == "eval"
    torch.save({"model": WEIGHT, "x": Harm(os.mkdir, str(mark))}, path)
    with pytest.raises(ConfigError, match=r"would run code when it is opened \(posix.mkdir\)"):
        read_pytorch_file(path)
    assert not mark.exists()


TOLD = {
    b"": "is empty: fetch or save it again",
    b"<!DOCTYPE html>": "is a web page or XML: fetch the file itself again",
    b"version https://git-lfs.github.com/spec/v1\n": "is a Git LFS pointer: fetch the file itself",
    (9).to_bytes(8, "little") + b'{"a": {}}' + bytes(9): "is a safetensors file: convert it",
    b"these are no weights": "not a PyTorch weights file, or damaged: ",
}


@pytest.mark.parametrize("content", list(TOLD), ids=list(map(str, range(len(TOLD)))))
def test_what_is_no_file_of_torch_is_told_by_its_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_pytorch_file(path)
    assert str(caught.value).startswith(TOLD[content])
    assert "\n" not in str(caught.value)


def test_file_that_is_cut_short_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save(WEIGHT, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ConfigError, match="is cut short, and so damaged: fetch or save it again"):
        read_pytorch_file(path)


def test_file_that_only_its_own_code_can_read_names_the_line_that_converts_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file.pth"
    torch.save({"model": WEIGHT}, path, pickle_protocol=4)
    with pytest.raises(ConfigError) as caught:
        read_pytorch_file(path)
    told, _, line = str(caught.value).partition("python -c ")
    assert told.startswith("holds objects that only their own code can read (Unsupported operand")
    code = line.strip('"').replace("'weights.pth'", f"'{tmp_path / 'weights.pth'}'")
    exec(code, {})
    assert torch.equal(read_pytorch_file(tmp_path / "weights.pth")["a.weight"], WEIGHT["a.weight"])


def test_file_of_the_form_of_before_that_ends_or_claims_anywhere_is_no_weights(
    tmp_path: Path,
) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    text = whole.index(b"X\x01\x00\x00\x00a")
    longer = whole[: text + 1] + b"\xff\xff\xff\x7f" + whole[text + 5 :]
    for damaged in (*(whole[:end] for end in range(1, len(whole))), longer):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError):
            read_pytorch_file(path)
