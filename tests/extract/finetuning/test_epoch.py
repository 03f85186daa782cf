"""Boxes that lose their width on the way to the detector are left out, and the others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from configs.schema.data import DetectorConfig
from configs.schema.training import DetectorTrainingConfig
from data.images.labels import LabelledBox, make_record
from data.images.records import ImageRecord, ImageSet
from extract.finetuning.epoch import DetectionDataset, drop_slivers
from extract.finetuning.finetune import finetune
from tests.support.datasets import save_image

WHOLE = (4.0, 4.0, 40.0, 50.0)
# Thinner than float32 tells apart at the other side of the image.
SLIVER = (1e-3, 4.0, float(np.nextafter(np.float32(1e-3), np.float32(1))), 50.0)


def image_of(folder: Path, *boxes: tuple[float, float, float, float]) -> ImageRecord:
    labelled = [LabelledBox(xyxy=box, category_id=1) for box in boxes]
    file = save_image(folder / "a.png", 96, 64)
    return make_record(image_id=1, file=str(file), size_hw=(64, 96), boxes=labelled)


def set_of(record: ImageRecord) -> ImageSet:
    return ImageSet(split="train", records=(record,), categories={1: "cat"})


@pytest.mark.parametrize("scale_px", [64, 50, 37])
@pytest.mark.parametrize("flip", [False, True])
def test_no_box_without_area_leaves_the_transform_and_labels_stay_with_theirs(
    tmp_path: Path, scale_px: int, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lefts = np.float32([1e-3, 1.0, 7.3, 33.3, 80.0])
    slivers = [(float(x), 4.0, float(np.nextafter(x, np.float32(99))), 60.0) for x in lefts]
    dataset = DetectionDataset(set_of(image_of(tmp_path, *slivers, WHOLE)), flip=True)
    monkeypatch.setattr(torch, "rand", lambda _: torch.tensor(0.0 if flip else 1.0))
    image, target = dataset[0]
    target["labels"] = torch.arange(6)
    transform = GeneralizedRCNNTransform(scale_px, 96, [0.0] * 3, [1.0] * 3)
    transform.register_forward_hook(drop_slivers)
    _, (left,) = transform([image], [target])
    assert (left["boxes"][:, 2:] > left["boxes"][:, :2]).all()
    assert left["labels"][-1] == 5
    assert len(left["labels"]) == len(left["boxes"])
    assert transform([image])[1] is None


def test_detector_learns_from_an_image_whose_sliver_loses_its_width_when_mirrored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = image_of(tmp_path, SLIVER, WHOLE)
    assert len(record.boxes_xyxy) == 2  # it has a width as it is
    monkeypatch.setattr("extract.finetuning.epoch.torch.rand", lambda _: torch.zeros(()))
    settings = DetectorTrainingConfig(
        epochs=1, batch_size=1, num_workers=0, boxes_per_image=8, save_dir=str(tmp_path / "d"),
    )  # fmt: skip
    detector = DetectorConfig(
        builder="fasterrcnn_mobilenet_v2_fpn", weights="random", min_size=64, max_size=96
    )
    best = finetune(detector, set_of(record), settings, evaluate=lambda *_: {"map": 0.5})
    assert best.is_file()
