"""Errors near objects count more: what the detector's head says, where, and on average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from analyze.facts.candidates import newest_runs
from analyze.measure.find_runs import trained_runs
from configs.errors import CacheError, ConfigError
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from tests.analyze.detection.test_heads_on_levels import BUILDERS, own_levels, small_detector
from tests.support.tiny_study import TinyStudy, save_detector, with_detector
from tests.support.training_process import options_of, rows_without_times
from train.cli import train_level
from train.objective.catalogue import distortions
from train.objective.object_weights import object_scores, object_weighted, position_weights
from train.runs.loaded_models import LoadedModels
from train.runs.run_folder import find_runs


def scores_by_anchor(model: Any, maps: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """The highest score of the anchors around each position, [B, H, W], found by their centres."""
    if hasattr(model, "rpn"):
        generator, logits = model.rpn.anchor_generator, model.rpn.head([maps])[0][0]
        scores = torch.sigmoid(logits).permute(0, 2, 3, 1).flatten(1)
    else:
        generator, out = model.anchor_generator, model.head([maps])
        scores = torch.sigmoid(out["cls_logits"]).amax(2)
    alone = type(generator)(generator.sizes[:1], generator.aspect_ratios[:1])
    anchors = alone(ImageList(torch.zeros(len(maps), 3, *image_hw), [image_hw]), [maps])[0]
    height, width = maps.shape[-2:]
    strides = torch.tensor([image_hw[1] // width, image_hw[0] // height])
    column, row = torch.div((anchors[:, :2] + anchors[:, 2:]) / 2, strides).floor().long().T
    best = torch.zeros(len(maps), height * width)
    return best.scatter_reduce(
        1, (row * width + column).expand(len(maps), -1), scores, "amax"
    ).view(-1, height, width)  # fmt: skip


@pytest.mark.parametrize("builder", BUILDERS)
@torch.no_grad()
def test_scores_are_those_of_the_detectors_own_anchors_around_each_position(builder: str) -> None:
    model = small_detector(builder)
    image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(1))
    maps = next(iter(own_levels(model, image).values()))
    maps = maps * torch.linspace(1, 30, maps.shape[-1])  # so that positions differ
    stride = 96 // maps.shape[-2]
    found = object_scores(model)(maps)
    expected = scores_by_anchor(model, maps, (96, maps.shape[-1] * stride))
    assert found.shape == (1, 1, *maps.shape[-2:])
    torch.testing.assert_close(found[:, 0], expected)


def test_detector_without_a_known_dense_head_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"object_weighted: .* gives a Linear: choose another"):
        object_scores(nn.Linear(1, 1))


def test_positions_within_four_of_an_object_weigh_most() -> None:
    maps = torch.zeros(1, 2, 20, 20)
    maps[0, 0, 10, 6] = 1
    weights = position_weights(lambda each: each[:, :1], maps)[0, 0]
    near = torch.zeros(20, 20, dtype=torch.bool)
    near[6:15, 2:11] = True
    assert (weights[near] == weights.max()).all()
    assert (weights[~near] == weights.min()).all()
    assert 0 < weights.min() < 0.1 * weights.max()


def test_weights_have_a_mean_of_one_over_the_train_cache(study: TinyStudy) -> None:
    with LevelReader(study.train_cache, 1) as reader:
        distortion = object_weighted(lambda maps: torch.sigmoid(maps[:, :1]), reader, "cpu")
        errors = []
        for index in range(reader.num_samples):
            maps = torch.from_numpy(np.array(reader.sample(index), dtype=np.float32))
            x = maps.permute(2, 0, 1)[None]
            errors.append(distortion(x + 1, x).flatten())
        assert torch.cat(errors).mean() == pytest.approx(1, rel=1e-4)


def test_level_trains_by_the_weighted_error_and_records_the_plain_one(
    study: TinyStudy, tmp_path: Path
) -> None:
    rows, folders = {}, []
    for name in ("object_weighted", "mse"):
        options = ("--level", "1", "--epochs", "2", "--set", f"training.distortion={name}")
        result = CliRunner().invoke(train_level, options_of(study, tmp_path / name, *options))
        assert result.exit_code == 0, result.output
        (run,) = find_runs(tmp_path / name)
        folders.append(run.folder)
        rows[name] = [
            {key: float(row[key]) for key in ("val_loss", "val_mse", "val_bpp")}
            for row in rows_without_times(run.folder)
        ]
    special = trained_runs(folders, CacheFolder(study.val_cache), LoadedModels()).special
    assert len(newest_runs(special)) == 2
    assert {run.model.partition(" ")[2] for run in special} == {"", "object_weighted"}
    lmbda = study.config.training.lmbda
    for row in rows["mse"]:
        assert row["val_loss"] == pytest.approx(row["val_mse"] + lmbda * row["val_bpp"])
    for row, plain in zip(rows["object_weighted"], rows["mse"], strict=True):
        assert row["val_loss"] != pytest.approx(row["val_mse"] + lmbda * row["val_bpp"], rel=1e-4)
        assert row["val_mse"] == pytest.approx(plain["val_mse"], rel=0.5)


def test_detector_that_did_not_make_the_cache_is_refused(study: TinyStudy, tmp_path: Path) -> None:
    other = with_detector(study.config, save_detector(tmp_path / "other.pth", seed=1))
    training = other.training.model_copy(update={"distortion": "object_weighted"})
    changed = other.model_copy(update={"training": training})
    with (
        LevelReader(study.train_cache, 1) as reader,
        pytest.raises(CacheError, match="holds features of detector weights"),
    ):
        distortions(changed, [reader], "cpu")
