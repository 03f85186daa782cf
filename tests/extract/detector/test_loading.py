"""Detectors by name or factory, weights in every usual wrapping; a misfit is one clear line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from configs.errors import ConfigError
from configs.schema.data import DetectorConfig
from data.cache.manifest import Manifest
from extract.detector.builders import fasterrcnn_mobilenet_v2_fpn, fpn_builders
from extract.detector.class_labels import head_of
from extract.detector.loading import backbone_levels, hash_weights, load_detector
from extract.detector.pyramid import level_shapes, measure_levels
from tests.support.extraction import error_of, must_extract, run_extract, write_config

OWN = "fasterrcnn_mobilenet_v2_fpn"
BATCH = torch.rand((1, 3, 128, 160), generator=torch.Generator().manual_seed(0))


def config_of(builder: str, **keys: Any) -> DetectorConfig:
    return DetectorConfig(builder=builder, min_size=96, max_size=128, **keys)


@pytest.mark.parametrize(
    ("builder", "strides_px", "derived_from"),
    [
        ("fasterrcnn_resnet50_fpn", [4, 8, 16, 32, 64], 3),
        ("retinanet_resnet50_fpn", [8, 16, 32, 64, 128], None),
    ],
)
def test_extraction_with_a_resnet_detector_stores_five_levels_of_256_channels(
    tmp_path: Path, builder: str, strides_px: list[int], derived_from: int | None
) -> None:
    text = (
        "data: {name: tiny, splits: {train: {num_scenes: 1, scene_seed: 23}}}\n"
        f"detector: {{builder: {builder}, weights: random, min_size: 128, max_size: 160}}\n"
    )
    config = write_config(tmp_path / "resnet.yaml", text)
    manifest = Manifest.load(must_extract(config, tmp_path))
    assert [level.stride_px for level in manifest.levels] == strides_px
    assert [level.num_channels for level in manifest.levels] == [256] * 5
    assert [level.derived_from for level in manifest.levels] == [None] * 4 + [derived_from]


@pytest.mark.parametrize(
    ("builder", "strides_px"),
    [
        ("fasterrcnn_resnet50_fpn_v2", [4, 8, 16, 32, 64]),
        ("maskrcnn_resnet50_fpn", [4, 8, 16, 32, 64]),
        ("fcos_resnet50_fpn", [8, 16, 32, 64, 128]),
        ("fasterrcnn_mobilenet_v3_large_fpn", [32, 32, 64]),
    ],
)
def test_strides_of_every_usual_detector_are_measured(builder: str, strides_px: list[int]) -> None:
    model = load_detector(config_of(builder, weights="random")).model
    levels = measure_levels(model, BATCH, level_shapes(model))
    assert [level.stride_px for level in levels] == strides_px
    assert [level.index for level in levels] == list(range(len(strides_px)))


def test_foreseen_map_shapes_are_those_the_backbone_computes() -> None:
    model = load_detector(config_of(OWN, weights="random")).model
    with torch.inference_mode():
        maps = list(backbone_levels(model, BATCH).values())
    assert level_shapes(model)(128, 160) == {i: tuple(m.shape[2:]) for i, m in enumerate(maps)}


def test_random_weights_are_the_same_each_time() -> None:
    first, second = (load_detector(config_of(OWN, weights="random")) for _ in range(2))
    assert first.weights_sha256 == second.weights_sha256
    assert not first.model.training


def test_loading_draws_none_of_the_random_numbers_of_a_run(tmp_path: Path) -> None:
    """Some runs have to load their detector to compare it with the cache's, and others need not."""
    saved(tmp_path / "own.pth", 4, lambda state: state)
    torch.manual_seed(5)
    expected = torch.rand(3)
    for config in (
        config_of(OWN, weights="random"),
        config_of(OWN, checkpoint=str(tmp_path / "own.pth")),
    ):
        torch.manual_seed(5)
        load_detector(config)
        assert torch.equal(torch.rand(3), expected)


def saved(path: Path, num_classes: int, wrap: Any) -> str:
    """Save the seeded state dict of our detector as `wrap` puts it; return its own hash."""
    torch.manual_seed(3)
    model = fasterrcnn_mobilenet_v2_fpn(num_classes=num_classes)
    torch.save(wrap(model.state_dict()), path)
    return hash_weights(model)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3, "args": {"lr": 0.1}},
        lambda state: {"state_dict": state, "optimizer": {"step": 1}},
        lambda state: {"model_state_dict": state, "loss": 0.5},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["bare", "model", "state_dict", "model_state_dict", "module."],
)
def test_checkpoint_is_read_in_every_usual_wrapping_and_sizes_the_head(
    tmp_path: Path, wrap: Any
) -> None:
    sha256 = saved(tmp_path / "own.pth", 4, wrap)
    detector = load_detector(config_of(OWN, checkpoint=str(tmp_path / "own.pth")))
    assert detector.weights_sha256 == sha256
    assert head_of(detector.model).num_labels == 3
    assert detector.classes is None


def test_class_names_and_epsilon_come_with_the_checkpoint(tmp_path: Path) -> None:
    saved(
        tmp_path / "own.pth",
        3,
        lambda state: {"model": state, "classes": ["cat", "dog"], "batch_norm_eps": 0.0},
    )
    detector = load_detector(config_of(OWN, checkpoint=str(tmp_path / "own.pth")))
    assert detector.classes == ("cat", "dog")
    norms = [m for m in detector.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {0.0}


def test_checkpoint_of_another_architecture_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path / "own.pth", 4, lambda state: state)
    text = (
        "data: {splits: {train: {num_scenes: 1, scene_seed: 1}}}\n"
        f"detector: {{builder: retinanet_resnet50_fpn, checkpoint: {tmp_path / 'own.pth'}}}\n"
    )
    config = write_config(tmp_path / "other.yaml", text)
    error = error_of(run_extract(config, tmp_path / "features"))
    assert error.startswith(
        f"{tmp_path / 'own.pth'}: does not fit detector.builder 'retinanet_resnet50_fpn': "
    )
    assert error.endswith("name the builder that the checkpoint was trained with")
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: fetch or save it again"),
        (b"these are no weights", "not a PyTorch weights file, or damaged"),
        ([1, 2, 3], "holds no state dict, neither bare nor under model, state_dict"),
        ({"epoch": 3}, "holds no state dict, neither bare nor under model, state_dict"),
        (nn.Linear(1, 1), "does not fit detector.builder .*: name the builder that the checkpoint"),
    ],
)
def test_file_that_holds_no_weights_is_one_line(
    tmp_path: Path, content: object, message: str
) -> None:
    path = tmp_path / "odd.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=message) as caught:
        load_detector(config_of(OWN, checkpoint=str(path)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_torchvision_weights_that_cannot_be_downloaded_name_the_file_and_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ConfigError) as caught:
        load_detector(config_of("fasterrcnn_resnet50_fpn", weights="COCO_V1"))
    name = "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
    message = str(caught.value)
    assert message.startswith("detector.weights COCO_V1: cannot be downloaded here (")
    assert f"fetch https://download.pytorch.org/models/{name} on another machine" in message
    assert message.endswith(f"and put it at {tmp_path}/hub/checkpoints/{name}")


def test_torchvision_weights_put_where_the_message_says_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(1)
    builder = torchvision.models.get_model_builder("keypointrcnn_resnet50_fpn")
    model = builder(weights=None, weights_backbone=None)
    path = tmp_path / "hub" / "checkpoints" / "keypointrcnn_resnet50_fpn_coco-fc266e95.pth"
    path.parent.mkdir(parents=True)
    torch.save(model.state_dict(), path)
    detector = load_detector(config_of("keypointrcnn_resnet50_fpn", weights="COCO_V1"))
    assert detector.weights_sha256 == hash_weights(model)
    assert head_of(detector.model).num_labels == 1
    assert detector.classes == ("person",)


FACTORY = """
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models import mobilenet_v2


def build():
    torch.manual_seed(5)
    body = mobilenet_v2(weights=None).features
    layers = {"3": "fine", "13": "coarse"}
    return FasterRCNN(BackboneWithFPN(body, layers, [24, 96], 64), num_classes=2)


def headless():
    return torch.nn.Linear(1, 1)
"""


def test_factory_in_the_working_directory_gives_its_own_pyramid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "detectors.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    # As for a console script: the working directory is not searched of itself.
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    text = (
        "data: {splits: {train: {num_scenes: 2, scene_seed: 23}}}\n"
        "detector: {builder: 'my_lab.detectors:build', min_size: 96, max_size: 128}\n"
    )
    cache = must_extract(write_config(tmp_path / "own.yaml", text), tmp_path)
    manifest = Manifest.load(cache)
    assert [level.key for level in manifest.levels] == ["fine", "coarse", "pool"]
    assert [level.stride_px for level in manifest.levels] == [4, 16, 32]
    assert [level.num_channels for level in manifest.levels] == [64, 64, 64]
    assert {max(b.height_px, b.width_px) for b in manifest.buckets} == {128}
    with pytest.raises(ConfigError, match=r"returned a Linear without \.transform"):
        load_detector(DetectorConfig(builder="my_lab.detectors:headless"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"builder": "fasterrcnn_resnet51_fpn"},
            "is no detector with an FPN: use one of ",
        ),
        ({"builder": "ssd300_vgg16"}, "is no detector with an FPN"),
        ({"builder": "no_such_package:build"}, r"cannot be imported \(No module named"),
        ({"builder": "json:no_such_factory"}, "has no 'no_such_factory'"),
        ({"builder": "json:loads"}, r"'json:loads' cannot be made: TypeError: loads\(\)"),
        ({"builder": ":build"}, "write package.module:name"),
        ({"builder": "json:loads", "weights": "COCO_V1"}, "'COCO_V1' is not for 'json:loads'"),
        ({"builder": OWN, "weights": "COCO_V1"}, "has no torchvision weights: give detector.check"),
        (
            {"builder": "fasterrcnn_resnet50_fpn", "weights": "COCO_V9"},
            "has no weights 'COCO_V9': it has COCO_V1, DEFAULT, or random",
        ),
    ],
)
def test_builder_or_weights_that_do_not_exist_are_refused_by_name(
    keys: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_detector(DetectorConfig.model_validate(keys))


def test_all_builders_have_a_pyramid_by_name() -> None:
    assert "fasterrcnn_resnet50_fpn" in fpn_builders()
    assert not [name for name in fpn_builders() if "ssd" in name]


def test_device_may_be_a_text_or_a_torch_device() -> None:
    config = DetectorConfig(builder="fasterrcnn_mobilenet_v2_fpn", weights="random")
    hashes = {
        load_detector(config, device).weights_sha256 for device in ("cpu", torch.device("cpu"))
    }
    assert len(hashes) == 1
