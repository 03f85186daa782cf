"""train-detector: a KITTI user's first step, here on built-in scenes at a tiny input size."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from configs.errors import ConfigError
from configs.schema.data import DetectorConfig
from data.cache.annotations import boxes_sha256
from data.images.records import ImageRecord, ImageSet
from data.images.scenes import CLASSES
from data.system.locks import held
from extract.detector.loading import load_detector
from extract.detector_cli import train_detector
from extract.finetuning import epoch
from extract.finetuning.epoch import DetectionDataset
from extract.finetuning.finetune import start_model
from tests.support.extraction import error_of
from tests.support.refused_files import refuse_to_open
from tests.support.tiny_study import save_detector

CONFIG = """\
data:
  splits:
    train: {{num_scenes: 4, scene_seed: 21}}
    val: {{num_scenes: 2, scene_seed: 22}}
detector: {{checkpoint: {checkpoint}, min_size: 64, max_size: 96}}
detector_training:
  {{epochs: {epochs}, batch_size: 2, learning_rate: 0.005, warmup_steps: 1, boxes_per_image: 8,
    num_workers: 0, lr_steps: [2], save_dir: {save_dir}}}
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("start") / "random.pth")


def run(folder: Path, start: Path, *, epochs: int, arguments: tuple[str, ...] = ()) -> Result:
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(checkpoint=start, epochs=epochs, save_dir=folder / "detection"))
    return CliRunner().invoke(train_detector, ["--config", str(config), *arguments])


@pytest.fixture(scope="module")
def one_epoch(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one epoch's run."""
    folder = tmp_path_factory.mktemp("one_epoch")
    result = run(folder, start, epochs=1)
    assert result.exit_code == 0, result.output
    return folder


def test_best_model_holds_weights_classes_and_metrics_and_loads_as_a_checkpoint(
    one_epoch: Path,
) -> None:
    best = one_epoch / "detection" / "best_model.pth"
    content = torch.load(best, weights_only=True)
    assert {"model_state_dict", "classes", "map", "map_50"} <= content.keys()
    assert content["classes"] == list(CLASSES)
    config = DetectorConfig(builder="fasterrcnn_mobilenet_v2_fpn", checkpoint=str(best))
    assert load_detector(config).classes == CLASSES


def test_training_changes_the_weights_but_no_batch_norm_statistics(
    one_epoch: Path, start: Path
) -> None:
    before = torch.load(start, weights_only=True)
    after = torch.load(one_epoch / "detection" / "last_model.pth", weights_only=True)
    after = after["model_state_dict"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "backbone.fpn.layer_blocks.0.0.weight" in changed
    assert not [name for name in changed if "running_" in name]


def last_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "detection" / "last_model.pth", weights_only=True)
    return content


@pytest.fixture(scope="module")
def whole(start: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last checkpoint of two epochs that nobody disturbed, of two steps each."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, start, epochs=2).exit_code == 0
    return last_of(folder)


def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, start: Path, one_epoch: Path, whole: dict[str, Any]
) -> None:
    shutil.copytree(one_epoch / "detection", tmp_path / "detection")
    assert run(tmp_path, start, epochs=2).exit_code == 0
    ends = last_of(tmp_path)["model_state_dict"]
    assert all(torch.equal(ends[name], whole["model_state_dict"][name]) for name in ends)


@pytest.mark.parametrize(
    ("number", "step", "place"),
    [(signal.SIGTERM, 1, (1, 1)), (signal.SIGTERM, 3, (2, 1)), (signal.SIGINT, 4, (2, 2))],
)
def test_signal_saves_the_epoch_and_the_same_command_ends_with_the_same_bits(
    tmp_path: Path, start: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals, step: int, place: tuple[int, int],
) -> None:  # fmt: skip
    """After the first step, the learning rate is still that of the warm-up."""
    random_states, steps = epoch._random_states, []

    def in_a_step(device: torch.device) -> dict[str, Any]:
        steps.append(device)
        if len(steps) == step:
            os.kill(os.getpid(), number)
        return random_states(device)

    with monkeypatch.context() as signalled:
        signalled.setattr(epoch, "_random_states", in_a_step)
        stopped = run(tmp_path, start, epochs=2)
    assert stopped.exit_code == 128 + number, stopped.output
    last = tmp_path / "detection" / "last_model.pth"
    assert stopped.output.endswith(
        f"stopped by {number.name} in epoch {place[0]}, after step {place[1]}; saved in {last}: "
        "the same command goes on from there\n"
    )
    assert last_of(tmp_path)["epoch"] == place[0] - 1
    assert run(tmp_path, start, epochs=2).exit_code == 0
    assert len(steps) == step
    ends = last_of(tmp_path)
    assert ends.keys() == whole.keys()
    state = ends["model_state_dict"]
    assert all(torch.equal(state[name], whole["model_state_dict"][name]) for name in state)
    assert not list(last.parent.glob("*.lock"))


def test_sigterm_while_an_epoch_is_evaluated_costs_the_evaluation_alone(
    tmp_path: Path, start: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluating(*_: object) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal came too late")

    with monkeypatch.context() as signalled:
        signalled.setattr("extract.accuracy.average_precision.evaluate_detector", evaluating)
        stopped = run(tmp_path, start, epochs=2)
    assert stopped.exit_code == 128 + signal.SIGTERM
    assert stopped.output.endswith("stopped by SIGTERM: the same command goes on from there\n")
    progress = last_of(tmp_path)["progress"]
    assert (last_of(tmp_path)["epoch"], progress["num_steps"]) == (0, 2)
    assert run(tmp_path, start, epochs=2).exit_code == 0
    ends = last_of(tmp_path)["model_state_dict"]
    assert all(torch.equal(ends[name], whole["model_state_dict"][name]) for name in ends)


def test_folder_in_which_another_process_trains_a_detector_is_refused(
    tmp_path: Path, start: Path
) -> None:
    folder = tmp_path / "detection"
    folder.mkdir()
    with held(folder / "training.lock"):
        error = error_of(run(tmp_path, start, epochs=1))
    assert error.startswith(f"{folder}: another process trains a detector here: wait for it, or")
    assert not list(folder.iterdir())


def test_last_checkpoint_that_cannot_be_read_for_now_is_no_reason_to_begin_afresh(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "detection" / "last_model.pth"
    last.parent.mkdir()
    last.write_bytes(b"whole, for all that is known")
    refuse_to_open(monkeypatch, errno.EIO, lambda path, _: path == last)
    error = error_of(run(tmp_path, start, epochs=1))
    assert error.startswith(f"{last}: cannot be read (Input/output error), which does not say")
    assert "--fresh" not in error


def save_last(folder: Path, **changes: Any) -> Path:
    """Save a last checkpoint that says of itself what is told, without any weights."""
    last = folder / "detection" / "last_model.pth"
    last.parent.mkdir()
    names = ("model_state_dict", "optimizer", "scheduler", "epoch", "best_map")
    torch.save(dict.fromkeys(names, 1) | {"classes": list(CLASSES)} | changes, last)
    return last


def test_resume_on_corrected_boxes_is_refused(tmp_path: Path, start: Path) -> None:
    last = save_last(tmp_path, boxes={"val": "others"})
    error = error_of(run(tmp_path, start, epochs=1))
    assert error.startswith(f"{last}: was trained with other boxes or images of the split 'val'")
    assert (
        f"run with --fresh (and --detection-checkpoint {last} to begin from its weights)" in error
    )


def test_boxes_hash_changes_with_any_box_and_not_with_the_folder() -> None:
    record = ImageRecord(
        image_id=1, file="a/1.png", height=20, width=30,
        boxes_xyxy=np.array([[1, 2, 3, 4]], dtype=np.float32),
        category_ids=np.array([1]), ignored=np.array([False]),
    )  # fmt: skip

    def hash_of(categories: dict[int, str] | None = None, **changes: Any) -> str:
        records = (replace(record, **changes),)
        return boxes_sha256(
            ImageSet(split="val", records=records, categories=categories or {1: "cat"})
        )

    usual = hash_of()
    assert hash_of(file="elsewhere/1.png") == usual
    others = {
        hash_of(boxes_xyxy=np.array([[1, 2, 3, 5]], dtype=np.float32)),
        hash_of(category_ids=np.array([2])), hash_of(ignored=np.array([True])),
        hash_of(areas_px=np.array([3.0])), hash_of(file="a/2.png"), hash_of(categories={1: "dog"}),
    }  # fmt: skip
    assert usual not in others
    assert len(others) == 6


def test_resume_on_other_classes_is_refused(tmp_path: Path, start: Path) -> None:
    save_last(tmp_path, classes=["cat"])
    result = run(tmp_path, start, epochs=2)
    assert result.exit_code == 1
    assert "was trained on classes ['cat']" in result.output
    assert "Traceback" not in result.output


def test_resume_with_another_detector_is_refused_unless_fresh(
    tmp_path: Path, start: Path, one_epoch: Path
) -> None:
    shutil.copytree(one_epoch / "detection", tmp_path / "detection")
    other = (
        "--set", "detector.builder=retinanet_resnet50_fpn", "--set", "detector.checkpoint=null",
        "--set", "detector.weights=random",
    )  # fmt: skip
    error = error_of(run(tmp_path, start, epochs=2, arguments=other))
    assert "is of another detector than detector.builder 'retinanet_resnet50_fpn'" in error
    assert "--fresh" in error


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_resume_from_a_damaged_checkpoint_is_one_line(
    tmp_path: Path, start: Path, content: bytes | None
) -> None:
    last = tmp_path / "detection" / "last_model.pth"
    last.parent.mkdir()
    if content is None:
        torch.save({"weights": 1}, last)
    else:
        last.write_bytes(content)
    error = error_of(run(tmp_path, start, epochs=1))
    assert error.startswith(f"{last}: ") and error.endswith(": run with --fresh")


def test_val_split_without_a_box_is_refused_before_an_epoch_is_trained(
    tmp_path: Path, start: Path
) -> None:
    """All its boxes are crowds: COCO's mAP is -1 then, and no epoch would be the best."""
    images = [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}]
    categories = [{"id": 1, "name": "cat"}]
    Image.new("RGB", (96, 64)).save(tmp_path / "a.png")
    for split, crowd in (("train", 0), ("val", 1)):
        box = {"id": 1, "image_id": 1, "bbox": [8, 8, 40, 40], "category_id": 1, "area": 1600}
        content = {
            "images": images, "annotations": [box | {"iscrowd": crowd}], "categories": categories
        }  # fmt: skip
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    data = (
        "--set", "data.format=coco",
        *("--set", f"data.splits.train={{images: {tmp_path}, annotations: {tmp_path}/train.json}}"),
        *("--set", f"data.splits.val={{images: {tmp_path}, annotations: {tmp_path}/val.json}}"),
    )  # fmt: skip
    error = error_of(run(tmp_path, start, epochs=1, arguments=data))
    assert error == "train-detector: the split 'val' has no boxes to evaluate on"
    assert not (tmp_path / "detection").exists()


def test_checkpoint_of_another_architecture_is_refused_as_a_start(start: Path) -> None:
    config = DetectorConfig(builder="fasterrcnn_resnet50_fpn", checkpoint=str(start))
    with pytest.raises(ConfigError, match="name the builder that the checkpoint was"):
        start_model(config, 3, 8)


def test_flipped_boxes_mirror_in_the_image_and_crowds_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (100, 50)).save(path)
    record = ImageRecord(
        image_id=1,
        file=str(path),
        height=50,
        width=100,
        boxes_xyxy=np.array([[10, 5, 30, 20], [0, 0, 90, 40]], dtype=np.float32),
        category_ids=np.array([7, 7]),
        ignored=np.array([False, True]),
    )
    images = ImageSet(split="train", records=(record,), categories={7: "dog"})
    torch.manual_seed(0)
    flipping = DetectionDataset(images, flip=True)
    targets = [flipping[0][1] for _ in range(20)]
    assert {tuple(target["boxes"].flatten().tolist()) for target in targets} == {
        (10.0, 5.0, 30.0, 20.0),
        (70.0, 5.0, 90.0, 20.0),
    }
    assert targets[0]["labels"].tolist() == [1]
