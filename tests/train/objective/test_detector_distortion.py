"""The detector's distortion: none where nothing differs, of noise as much as the squared error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.config_files import check_config, load_config
from configs.errors import CacheError, ConfigError
from configs.schema.config import Config
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations
from data.cache.plan import stored_corner
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch, LevelStream
from data.reading.whole_maps import whole_map_batches
from tests.support.extraction import TinyCache
from tests.support.tiny_detectors import KINDS, heads_of, random_maps, tiny_detector
from tests.support.tiny_study import SETTINGS, tiny_config, with_detector
from train.loop.job import Job
from train.objective.catalogue import distortions
from train.objective.detection_loss import WithDetectionLoss, detection_losses
from train.objective.detector_distortion import (
    DetectorDistortion,
    Scales,
    dense_error,
    detector_distortion,
    ideally_decoded,
    pooled_error,
)
from train.objective.level_heads import FrozenHeads, LevelHeads, frozen_heads
from train.objective.map_places import MapPlace, MapPlaces
from train.objective.rate_distortion import distorted_sums, square_error, trained_by

BOXES = torch.tensor([[12.0, 14.0, 44.0, 42.0]])
WHOLE = MapPlace(
    top=0, left=0, height=8, width=12, padded_hw=(64, 96), boxes=BOXES, labels=torch.tensor([1])
)


def distortion_of(heads: LevelHeads) -> DetectorDistortion:
    """The distortion with plain scales, of maps that lie in the corner of one image."""
    scales = Scales(dense=1.0, pooled=1.0 if heads.pools else None)
    return DetectorDistortion(heads, Corners(), scales)


class Corners(MapPlaces):
    """Takes every map for the corner of one image."""

    def __init__(self) -> None:
        pass

    def of(self, batch: Batch) -> list[MapPlace]:
        return [replace(WHOLE, height=h, width=w) for h, w in batch.sizes.tolist()]


def batch_of(sizes: list[tuple[int, int]]) -> Batch:
    none = torch.zeros(len(sizes), dtype=torch.int64)
    return Batch(
        features=torch.zeros(0), indices=none, sizes=torch.tensor(sizes),
        corners=none[:, None].repeat(1, 2), level=0, first_row=0, batch_rows=len(sizes),
        batch_positions=sum(h * w for h, w in sizes),
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_maps_that_are_equal_have_no_distortion_and_no_gradient(kind: str) -> None:
    x = random_maps(2, 8, 12)
    x_hat = x.clone().requires_grad_()
    sums = distortion_of(heads_of(tiny_detector(kind))).sums(x_hat, x, batch_of([(8, 12)] * 2))
    assert sums.tolist() == [0.0, 0.0]
    sums.sum().backward()
    assert x_hat.grad is not None
    assert x_hat.grad.abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_flows_to_the_decoded_maps_alone(kind: str) -> None:
    model = tiny_detector(kind)
    x, x_hat = random_maps(1, 8, 12).requires_grad_(), random_maps(1, 8, 12, seed=1)
    x_hat.requires_grad_()
    heads = heads_of(model)
    (dense_error(heads, x_hat, x).sum()).backward()
    if heads.pools:
        pooled_error(heads, x_hat, x.detach(), [WHOLE]).sum().backward()
    assert x.grad is None
    assert x_hat.grad is not None
    assert x_hat.grad.isfinite().all()
    assert x_hat.grad.any()
    assert all(values.grad is None for values in model.parameters())


def test_dense_error_is_what_torchvisions_heads_say_of_each_anchor() -> None:
    model = tiny_detector("faster_rcnn")
    x, x_hat = random_maps(1, 8, 12), random_maps(1, 8, 12, seed=1)
    (there,), (deltas,) = model.rpn.head([x])
    (ours,), (our_deltas,) = model.rpn.head([x_hat])
    p, q = torch.sigmoid(there), torch.sigmoid(ours)
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    apart = (our_deltas - deltas).abs()
    of_boxes = torch.where(apart < 1 / 9, 4.5 * apart**2, apart - 1 / 18)
    expected = divergence.sum() + (p * of_boxes.unflatten(1, (3, 4)).sum(2)).sum()
    (found,) = dense_error(heads_of(model), x_hat, x)
    torch.testing.assert_close(found, expected)


def test_pooled_error_is_that_of_torchvisions_box_head_on_boxes_and_tiles() -> None:
    model = tiny_detector("faster_rcnn", num_levels=1)
    x, x_hat = random_maps(1, 8, 12), random_maps(1, 8, 12, seed=1)
    heads = heads_of(model)
    model_boxes = torch.cat([BOXES, heads.tiles(8, 12, x.device)])
    assert len(model_boxes) == 1 + 6
    box_heads = model.roi_heads

    def seen(maps: Tensor) -> Tensor:
        pooled = box_heads.box_roi_pool({"0": maps}, [model_boxes], [(64, 96)])
        representation: Tensor = box_heads.box_head(pooled)
        return representation

    scores = 1 - torch.softmax(box_heads.box_predictor(seen(x))[0], 1)[:, 0]
    error = (seen(x_hat) - seen(x)).square().mean(1) * (0.06 + scores)
    (found,) = pooled_error(heads, x_hat, x, [WHOLE])
    torch.testing.assert_close(found, error.mean() * 8 * 12)


def test_tiles_cover_a_map_and_are_of_a_size_that_the_level_is_asked_for() -> None:
    model = tiny_detector("faster_rcnn")
    for index in (0, 1):
        heads = heads_of(model, index)
        tiles = heads.tiles(16, 24, torch.device("cpu"))
        stride = heads.level.stride_px
        areas = (tiles[:, 2:] - tiles[:, :2]).prod(1)
        assert areas.sum() == 16 * 24 * stride**2
        assert tiles.amin(0)[:2].tolist() == [0, 0]
        assert tiles.amax(0)[2:].tolist() == [24 * stride, 16 * stride]
        assert heads.looked_at_here(tiles).all()
    assert not heads_of(model).looked_at_here(tiles).any()


@pytest.mark.parametrize("kind", KINDS)
def test_padded_map_has_the_distortion_that_it_has_alone(kind: str) -> None:
    distortion = distortion_of(heads_of(tiny_detector(kind)))
    x, x_hat = random_maps(2, 8, 12), random_maps(2, 8, 12, seed=1)
    sizes = [(6, 10), (8, 12)]
    together = distortion.sums(x_hat, x, batch_of(sizes))
    for row, (height, width) in enumerate(sizes):
        part = (slice(row, row + 1), slice(None), slice(height), slice(width))
        (alone,) = distortion.sums(x_hat[part], x[part], batch_of([(height, width)]))
        torch.testing.assert_close(together[row], alone)


def test_detector_of_another_kind_is_refused_by_name() -> None:
    heads = heads_of(tiny_detector("retinanet"))
    other = FrozenHeads(model=torch.nn.Linear(1, 1), classes=None, shapes_of=heads.shapes_of)
    with pytest.raises(ConfigError, match=r"detection_loss: .* gives a Linear: leave it out"):
        LevelHeads(other, heads.level, "training.detection_loss")


def settings(cache: TinyCache, **training: object) -> Config:
    """The cache's settings with some of `training` replaced."""
    config = load_config(cache.config)
    changed = config.training.model_dump(by_alias=True) | training
    return check_config(config.model_dump(by_alias=True) | {"training": changed}, "tiny")


@pytest.fixture(scope="module")
def reader(zarr_cache: TinyCache) -> Iterator[LevelReader]:
    with LevelReader(zarr_cache.folder, 2) as opened:
        yield opened


@pytest.fixture(scope="module")
def heads(zarr_cache: TinyCache, reader: LevelReader) -> FrozenHeads:
    return frozen_heads(settings(zarr_cache), [reader], "cpu")


def test_what_an_ideal_codec_leaves_counts_as_its_squared_error(
    reader: LevelReader, heads: FrozenHeads
) -> None:
    distortion = detector_distortion(heads, reader, "cpu")
    variance = float(reader.statistics.variance.sum())
    random = torch.Generator().manual_seed(5)
    distorted = squared = positions = 0.0
    for batch in whole_map_batches(reader, 2):
        x = batch.features.float()
        x_hat = ideally_decoded(x, reader, random)
        distorted += float(distorted_sums(distortion, x_hat, x, batch).sum())
        squared += float(distorted_sums(square_error, x_hat, x, batch).sum())
        positions += batch.batch_positions
    assert distorted == pytest.approx(squared, rel=0.05)
    assert squared / positions == pytest.approx(variance / 4, rel=0.05)
    again = detector_distortion(heads, reader, "cpu")
    assert again._scales == distortion._scales == distortion.of_cache(reader)._scales


def test_detector_that_sees_nothing_of_a_level_is_refused(
    reader: LevelReader, heads: FrozenHeads, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = heads.model.rpn.head
    monkeypatch.setattr(head, "forward", lambda maps: tiny_answers(maps[0]))
    with pytest.raises(ConfigError, match="answer to level 2 as if it were empty"):
        detector_distortion(heads, reader, "cpu")


def tiny_answers(maps: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """An RPN's answers that do not depend on what it is asked of."""
    empty = torch.zeros_like(maps[:, :1])
    return [empty], [empty.expand(-1, 4, -1, -1)]


def test_boxes_of_a_crop_are_those_of_the_detectors_input(
    zarr_cache: TinyCache, reader: LevelReader, heads: FrozenHeads
) -> None:
    places = MapPlaces(reader, heads, "cpu", with_labels=True)
    (batch,) = LevelStream(reader, batch_size=8, crop=4, copy=True)
    found = places.of(batch)
    images = read_annotations(zarr_cache.folder / ANNOTATIONS_NAME, "train").records
    for row, (place, index) in enumerate(zip(found, batch.indices.tolist(), strict=True)):
        sample = reader.manifest.samples[index]
        record = next(each for each in images if each.image_id == sample.image_id)
        ratio = sample.input_width / sample.width
        scaled = torch.from_numpy(record.boxes_xyxy) * ratio
        torch.testing.assert_close(place.boxes, scaled, rtol=0.02, atol=1)
        assert len(place.labels) == len(place.boxes) > 0
        assert all(1 <= label <= 5 for label in place.labels.tolist())
        rows = slice(place.top, place.top + place.height)
        cut = np.array(reader.sample(index))[rows, place.left : place.left + place.width]
        here = batch.features[row, :, : place.height, : place.width]
        assert torch.equal(here, torch.from_numpy(cut).permute(2, 0, 1))


def test_boxes_are_on_a_crop_if_they_are_wholly() -> None:
    place = replace(WHOLE, top=2, left=1, height=4, width=6)  # 8 to 56 and 16 to 48 px
    boxes = torch.tensor([[8.0, 16.0, 56.0, 48.0], [7.0, 20.0, 30.0, 40.0], [10, 20, 30, 49]])
    inside = place.inside(boxes, 8)
    assert inside.tolist() == [[0, 0, 48, 32]]
    assert place.in_image(inside, 8).tolist() == [[8, 16, 56, 48]]


def test_crops_that_a_cache_stores_lie_where_extraction_cut_them(
    reader: LevelReader, heads: FrozenHeads, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = MapPlaces(reader, heads, "cpu", with_labels=False)
    (batch,) = whole_map_batches(reader, 1, [3])
    sample, cut = reader.manifest.samples[3], (2, 2)
    bucket = reader.manifest.buckets[sample.bucket]
    small = replace(bucket, level_shapes=bucket.level_shapes | {2: cut})
    buckets = tuple(small if each is bucket else each for each in reader.manifest.buckets)
    cropped = replace(reader.manifest, crop=2, buckets=buckets)
    monkeypatch.setattr(reader, "manifest", cropped)
    corner = stored_corner(
        image_id=sample.image_id, level=2, map_hw=bucket.level_shapes[2], crop_hw=cut
    )
    (place,) = places.of(replace(batch, corners=torch.tensor([[1, 0]])))
    assert (place.top, place.left) == (corner[0] + 1, corner[1])


def test_loss_is_added_from_its_epoch_on_in_training_and_always_in_validation(
    zarr_cache: TinyCache, reader: LevelReader
) -> None:
    config = settings(zarr_cache, detection_loss={"weight": 0.5, "from_epoch": 3})
    (distortion,) = distortions(config, [reader], "cpu")
    assert isinstance(distortion, WithDetectionLoss)
    assert trained_by(distortion, 2) is trained_by(square_error, 2) is square_error
    assert trained_by(distortion, 3) is distortion
    (batch,) = whole_map_batches(reader, 1, [0])
    x = batch.features.float()
    losses = detection_losses(distortion._heads, x, distortion._places.of(batch))
    found = distortion.of_cache(reader).sums(x, x, batch)
    torch.testing.assert_close(found, 0.5 * losses * x.numel())


def test_detector_that_did_not_make_the_cache_is_refused(
    zarr_cache: TinyCache, reader: LevelReader, tmp_path: Path
) -> None:
    state = torch.load(settings(zarr_cache).detector.checkpoint, weights_only=True)
    state["rpn.head.cls_logits.bias"] += 1
    torch.save(state, tmp_path / "other.pth")
    other = with_detector(settings(zarr_cache, distortion="detector"), tmp_path / "other.pth")
    with pytest.raises(CacheError, match="holds features of detector weights"):
        distortions(other, [reader], "cpu")


def test_cutmix_is_refused_with_the_detection_loss_alone() -> None:
    tiny_config(cutmix=0.5, distortion="detector")
    tiny_config(detection_loss={})
    with pytest.raises(ConfigError, match=r"detection_loss: cutmix puts .* set training.cutmix to"):
        tiny_config(cutmix=0.5, detection_loss={})


def test_level_may_have_a_detection_loss_of_its_own() -> None:
    raw = SETTINGS | {"levels": {1: {"training": {"detection_loss": {"weight": 0.5}}}}}
    config = check_config(raw, "tiny study")
    assert config.of_level(0, [0, 1]).training.detection_loss is None
    loss = config.of_level(1, [0, 1]).training.detection_loss
    assert loss is not None
    assert (loss.weight, loss.from_epoch) == (0.5, 20)


def test_boxes_are_of_a_runs_fingerprints_where_they_count_and_else_not(
    zarr_cache: TinyCache,
) -> None:
    def names(**training: object) -> set[str]:
        cache = zarr_cache.folder
        config = settings(zarr_cache, **training)
        job = Job(train_cache=cache, val_cache=cache, level=1, device="cpu", config=config)
        return set(job.fingerprints())

    assert names() == names(distortion="object_weighted") == {"train", "val"}
    assert names(distortion="detector") == names(detection_loss={}) == {"train", "val", "boxes"}
