"""Weights of every usual training loop are found, under the model's own names, and tell of it."""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import get_model_builder

from extract.detector.builders import fasterrcnn_mobilenet_v2_fpn
from extract.detector.loading import hash_weights, load_detector
from extract.detector.pytorch_files import read_pytorch_file
from extract.detector.state_dicts import find_state, misfit, unwrapped
from extract.finetuning.finetune import start_model
from tests.extract.detector.test_loading import OWN, config_of, saved

State = dict[str, Tensor]
BY_A_FACTORY = "build it by a factory of your own, detector.builder package.module:factory"


class Tiny(nn.Module):
    """A model with a backbone, a buffer that is saved, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, 1)
        self.register_buffer("passing", torch.zeros(1), persistent=False)


class Held(nn.Module):
    """As Lightning's modules hold a model: by an attribute, beside a loss and an average."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.loss = model, nn.Linear(1, 1)
        self.ema = AveragedModel(copy.deepcopy(model))
        nn.init.zeros_(self.ema.module.head.weight)


def renamed(state: State, beginning: str) -> State:
    return {beginning + key: tensor for key, tensor in state.items()}


LOOPS: dict[str, Callable[[Tiny], Any]] = {
    "bare": lambda model: model.state_dict(),
    "torchvision's reference": lambda model: {
        "model": model.state_dict(), "optimizer": {}, "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "model_ema": renamed(Tiny().state_dict(), "module."),
    },
    "torch.compile": lambda model: renamed(model.state_dict(), "_orig_mod."),
    "compiled backbone": lambda model: {
        key.replace("backbone.", "backbone._orig_mod."): tensor
        for key, tensor in model.state_dict().items()
    },
    "DDP": lambda model: {"state_dict": renamed(model.state_dict(), "module.")},
    "DDP of a compiled model": lambda model: renamed(model.state_dict(), "module._orig_mod."),
    "compiled DDP": lambda model: renamed(model.state_dict(), "_orig_mod.module."),
    "Lightning": lambda model: {
        "state_dict": Held(model).state_dict(), "pytorch-lightning_version": "2.5",
        "hyper_parameters": {"lr": 1}, "callbacks": {},
    },
    "an average": lambda model: {"model": AveragedModel(model).state_dict()},
    "an average alone": lambda model: {"model_ema": AveragedModel(model).state_dict(), "epoch": 1},
    "numpy's scalars": lambda model: {"net": model.state_dict(), "best": np.float64(0.5)},
    "names beside the weights": lambda model: model.state_dict() | {"classes": ["a"], "epoch": 3},
    "the whole model": lambda model: model,
    "the whole model in a dict": lambda model: {"model": model, "epoch": 3},
}  # fmt: skip


@pytest.mark.parametrize("loop", list(LOOPS))
def test_weights_of_every_usual_loop_are_the_models_own(tmp_path: Path, loop: str) -> None:
    torch.manual_seed(0)
    model = Tiny()
    torch.save(LOOPS[loop](model), tmp_path / "file.pth")
    state = find_state(read_pytorch_file(tmp_path / "file.pth"))
    assert state is not None
    found, expected = unwrapped(state, root="backbone"), model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_codec_without_a_root_loses_what_all_its_names_begin_with() -> None:
    state = {"g_a.weight": torch.ones(1), "mean": torch.ones(1)}
    for beginning in ("", "module.", "_orig_mod.", "module._orig_mod.", "model.module."):
        average = {"n_averaged": torch.ones(())} if beginning == "module." else {}
        assert unwrapped(renamed(state, beginning) | average) == state
    alone = {"model.a": torch.ones(1), "mean": torch.ones(1)}
    assert unwrapped(alone) == alone


def test_content_without_weights_has_no_state() -> None:
    for content in ([1], {"epoch": 3}, {"model": {}}, {"loss": torch.ones(1)}, None):
        assert find_state(content) is None


def test_reference_script_checkpoint_of_a_compiled_average_is_loaded_as_a_detector(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model_25.pth"
    sha256 = saved(
        path, 4,
        lambda state: {
            "model": renamed(state, "module._orig_mod."), "epoch": 25, "best": np.float64(0.3),
            "args": argparse.Namespace(dataset="coco", output_dir=Path("out")),
            "classes": np.array(["a", "b", "c"]), "batch_norm_eps": np.float64(0.25),
        },
    )  # fmt: skip
    detector = load_detector(config_of(OWN, checkpoint=str(path)))
    assert detector.weights_sha256 == sha256
    assert detector.classes == ("a", "b", "c")
    norms = [each for each in detector.model.modules() if isinstance(each, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {0.25}


def test_layers_as_torchvision_once_called_them_are_known(tmp_path: Path) -> None:
    def as_before_0_13(state: State) -> State:
        """As its own COCO weights, which it downloads, still call them."""
        once = re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.|(rpn\.head\.conv)\.0\.0\.")
        return {once.sub(lambda m: f"{m[1] or m[2]}.", key): state[key] for key in state}

    sha256 = saved(tmp_path / "old.pth", 4, as_before_0_13)
    config = config_of(OWN, checkpoint=str(tmp_path / "old.pth"))
    assert load_detector(config).weights_sha256 == sha256
    model, _ = start_model(config, 4, boxes_per_image=8)
    assert hash_weights(model.eval()) == sha256


@pytest.fixture(scope="module")
def expected() -> State:
    with torch.device("meta"):
        return fasterrcnn_mobilenet_v2_fpn(num_classes=4).state_dict()


def with_anchors(state: State) -> State:
    return state | {"rpn.head.cls_logits.weight": torch.zeros(5, 256, 1, 1)}


def narrow(state: State) -> State:
    return {key: tensor[:128] if "layer_blocks" in key else tensor for key, tensor in state.items()}


def without_a_level(state: State) -> State:
    return {key: state[key] for key in state if "blocks.3" not in key}


def of_detectron2(state: State) -> State:
    return {key.replace("backbone.body", "backbone.bottom_up"): state[key] for key in state}


def of_mmdetection(state: State) -> State:
    return {key.replace("backbone.fpn", "neck"): state[key] for key in state}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (with_anchors, f"it has 5 anchors at each position, and not 3: {BY_A_FACTORY}"),
        (narrow, f"it has 128 channels in its FPN, and not 256: {BY_A_FACTORY}"),
        (without_a_level, f"it has 3 levels below its FPN, and not 4: {BY_A_FACTORY}"),
        (of_detectron2, f"it has the layers of detectron2, not of torchvision: {BY_A_FACTORY}"),
        (of_mmdetection, f"it has the layers of MMDetection, not of torchvision: {BY_A_FACTORY}"),
    ],
)
def test_misfit_is_told_by_what_the_weights_show(
    expected: State, change: Callable[[State], State], told: str
) -> None:
    assert misfit(change(expected), expected) == told


@pytest.mark.parametrize("builder", ["retinanet_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_another_body_or_another_head_is_another_builder(expected: State, builder: str) -> None:
    with torch.device("meta"):
        other = get_model_builder(builder)(weights=None, weights_backbone=None).state_dict()
    assert misfit(other, expected) == "name the builder that the checkpoint was trained with"
