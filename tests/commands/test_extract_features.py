"""extract-features: what it stores is what the detector computes, and what it refuses it names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click import Command
from click.testing import CliRunner

import extract.cli
import extract.features.extraction
from configs.config_files import load_config
from data.cache.channel_statistics import statistics_path
from data.cache.manifest import Manifest
from data.images.image_sets import load_images
from data.reading.level_reader import LevelReader
from extract.cli import extract_features
from extract.detector.loading import backbone_levels, prepare_images
from extract.detector_cli import train_detector
from tests.support.datasets import save_image
from tests.support.extraction import (
    TinyCache,
    error_of,
    fingerprints,
    images_of,
    must_extract,
    plan_of,
    run_extract,
    write_config,
)

PENNFUDAN = Path(__file__).parents[3] / "shared" / "datasets" / "pennfudan"
PEDESTRIAN = Path(__file__).parents[3] / "shared" / "detectors" / "pedestrian.pth"


@pytest.fixture
def photos(tiny_config: Path, tmp_path: Path) -> Path:
    """A configuration of six image files in one bucket, the fifth of which is cut short."""
    for number in range(6):
        save_image(tmp_path / "photos" / f"{number}.jpg", 128, 96)
    damaged = tmp_path / "photos" / "4.jpg"
    shutil.copy(damaged, tmp_path / "whole.jpg")
    damaged.write_bytes(damaged.read_bytes()[:-2000])
    text = tiny_config.read_text(encoding="utf-8")
    start, end = text.index("  splits:"), text.index("detector:")
    splits = f"  format: folder\n  splits: {{train: {{images: {tmp_path / 'photos'}}}}}\n"
    return write_config(tmp_path / "photos.yaml", text[:start] + splits + text[end:])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_are_the_backbones_own_output_for_the_image_alone(
    tiny_config: Path, tmp_path: Path, dtype: str
) -> None:
    cache = must_extract(tiny_config, tmp_path, "--dtype", dtype, "--batch-size", "3")
    manifest, detector = plan_of(tiny_config)
    alone = []
    for image in images_of(manifest):
        batch, _ = prepare_images(detector.model, [image])
        with torch.inference_mode():
            alone.append(list(backbone_levels(detector.model, batch).values()))
    for level in range(5):
        with LevelReader(cache, level) as reader:
            for index, maps in enumerate(alone):
                expected = maps[level][0].permute(1, 2, 0).to(getattr(torch, dtype)).numpy()
                assert np.abs(expected).max() > 0
                np.testing.assert_array_equal(reader.sample(index), expected)


def test_cache_is_byte_identical_whatever_the_batch_size_and_worker_count(
    tiny_config: Path, tmp_path: Path
) -> None:
    found = []
    for batch_size, workers in ((1, 1), (1, 3), (3, 1), (3, 3)):
        features = tmp_path / f"{batch_size}_{workers}"
        options = ("--batch-size", str(batch_size), "--workers", str(workers))
        # Three samples a shard of the finest level, so that batches are really of three.
        cache = must_extract(tiny_config, features, *options, "--set", "cache.shard_megabytes=1.2")
        found.append(fingerprints(cache))
    assert {b.samples_per_shard[0] for b in Manifest.load(cache).buckets} == {1, 2, 3}
    assert found == [found[0]] * 4


def test_pool_level_is_derived_from_the_one_before_and_equals_every_second_position(
    zarr_cache: TinyCache,
) -> None:
    manifest = zarr_cache.manifest
    assert [level.derived_from for level in manifest.levels] == [None, None, None, None, 3]
    assert [level.key for level in manifest.levels] == ["0", "1", "2", "3", "pool"]
    with LevelReader(zarr_cache.folder, 3) as fine, LevelReader(zarr_cache.folder, 4) as coarse:
        for index in range(coarse.num_samples):
            np.testing.assert_array_equal(coarse.sample(index), fine.sample(index)[::2, ::2])


def test_second_run_finds_everything_there_and_changes_no_file(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    shutil.copytree(zarr_cache.folder, tmp_path / "train")
    result = run_extract(zarr_cache.config, tmp_path)
    assert result.output == f"train: all 8 images are in {tmp_path / 'train'} already\n"
    assert fingerprints(tmp_path / "train") == fingerprints(zarr_cache.folder)


def test_truncated_image_stops_with_its_name_and_committed_units_are_used_next_time(
    photos: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "photos" / "4.jpg"
    error = error_of(run_extract(photos, tmp_path / "cache", "--batch-size", "1"))
    assert error.startswith(f"{damaged}: unreadable image (")
    assert not statistics_path(tmp_path / "cache" / "train", 0).exists()
    shutil.copy(tmp_path / "whole.jpg", damaged)
    result = run_extract(photos, tmp_path / "cache")
    assert "train: 2 images, " in result.output
    whole = must_extract(photos, tmp_path / "undisturbed")
    found, expected = fingerprints(tmp_path / "cache" / "train"), fingerprints(whole)
    for files in (found, expected):  # the plan was made of the damaged file
        del files["manifest.json"], files["commits.jsonl"]
    assert found == expected


def test_image_of_another_size_than_the_annotations_say_is_named(
    tiny_config: Path, tmp_path: Path
) -> None:
    file = save_image(tmp_path / "a.png", 128, 96)
    image = {"id": 1, "file_name": "a.png", "height": 99, "width": 128}
    raw = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(raw))
    text = tiny_config.read_text(encoding="utf-8")
    start, end = text.index("  splits:"), text.index("detector:")
    split = f"{{images: {tmp_path}, annotations: {tmp_path / 'a.json'}}}"
    coco = text[:start] + f"  format: coco\n  splits: {{train: {split}}}\n" + text[end:]
    error = error_of(run_extract(write_config(tmp_path / "coco.yaml", coco), tmp_path / "cache"))
    assert error == (
        f"{file}: is 96x128 px, the data set says 99x128: mend the annotations, "
        "or run with --skip-bad-images"
    )


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--dtype", "float32"), "dtype: 'float16' there, 'float32' now"),
        (("--container", "hdf5"), "container: 'zarr' there, 'hdf5' now"),
        (("--limit", "5"), "images: 8 there, 5 now"),
        (("--levels", "1,2"), "levels: [0, 1, 2, 3, 4] there, [1, 2] now"),
        (("--set", "detector.min_size=90"), "detector min_size: 96 there, 90 now"),
        (("--set", "cache.shard_megabytes=2"), "levels, buckets or shard size"),
        (
            ("--set", "detector.weights=random", "--set", "detector.checkpoint=null"),
            "detector weights_sha256: '",
        ),
    ],
)
def test_cache_of_another_plan_is_refused_and_the_difference_named(
    zarr_cache: TinyCache, options: tuple[str, ...], difference: str
) -> None:
    before = fingerprints(zarr_cache.folder)
    error = error_of(run_extract(zarr_cache.config, zarr_cache.folder.parent, *options))
    assert error.startswith(f"{zarr_cache.folder}: holds a cache of another plan ({difference}")
    assert error.endswith(
        "choose another --features; --overwrite would remove this cache for the new one"
    )
    assert fingerprints(zarr_cache.folder) == before


def test_overwrite_replaces_a_cache_of_another_plan_and_leaves_nothing_of_it(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    shutil.copytree(zarr_cache.folder, tmp_path / "train")
    (tmp_path / "train" / "notes.txt").write_text("the user's own")
    options = ("--container", "hdf5", "--limit", "2", "--levels", "2,3")
    must_extract(zarr_cache.config, tmp_path, *options, "--overwrite")
    fresh = must_extract(zarr_cache.config, tmp_path / "fresh", *options)
    found = fingerprints(tmp_path / "train")
    assert found.pop("notes.txt")
    assert found == fingerprints(fresh)


def test_limit_takes_the_first_images_and_levels_stores_only_those(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    cache = must_extract(zarr_cache.config, tmp_path, "--limit", "3", "--levels", "3,1")
    manifest = Manifest.load(cache)
    assert [s.file for s in manifest.samples] == [f"scene:23:{n}" for n in range(3)]
    assert [level.index for level in manifest.levels] == [1, 3]
    assert sorted(p.name for p in cache.glob("level_*")) == ["level_1.zarr", "level_3.zarr"]
    with LevelReader(cache, 3) as few, LevelReader(zarr_cache.folder, 3) as all_of_them:
        for index in range(3):
            np.testing.assert_array_equal(few.sample(index), all_of_them.sample(index))


def test_two_splits_in_one_run_give_two_caches(tiny_config: Path, tmp_path: Path) -> None:
    must_extract(tiny_config, tmp_path, "--split", "val", "--levels", "4")
    assert len(Manifest.load(tmp_path / "train").samples) == 8
    assert len(Manifest.load(tmp_path / "val").samples) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "vall"), "data.splits: no split 'vall': did you mean 'val'?"),
        (("--device", "gpu"), "--device gpu: use auto, cpu, cuda or cuda:N"),
        (("--device", "cuda:99"), "--device cuda:99: this machine has "),
        (("--levels", "7"), "cache.levels: the detector has levels 0, 1, 2, 3, 4, not 7"),
        (("--levels", "one"), "cache.levels"),
        (("--detection-checkpoint", "no.pth"), "detector checkpoint no.pth: no such file: give"),
        (("--detection-checkpoint", "a #2.pth"), "detector checkpoint a #2.pth: no such file"),
        (("--detection-checkpoint", "20240101"), "detector checkpoint 20240101: no such file"),
    ],
)
def test_mistake_is_one_line_and_nothing_is_written(
    tiny_config: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    assert message in error_of(run_extract(tiny_config, tmp_path, *options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [extract_features, train_detector], ids=lambda c: c.name)
@pytest.mark.parametrize(
    "options",
    [("--detection-checkpoint", "no.pth"), ("--device", "cuda:99"), ("--split", "vall")],
    ids=lambda options: options[0],
)
def test_what_is_checked_in_no_time_is_checked_before_images_are_listed(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, command: Command, options: tuple[str, ...]
) -> None:
    listed = []
    monkeypatch.setattr(
        "data.images.image_sets.load_images", lambda *_, **__: listed.append("split")
    )
    result = CliRunner().invoke(
        command, ["--config", str(tiny_config), "--split", "train", *options]
    )
    assert error_of(result)
    assert not listed


@pytest.mark.skipif(not PENNFUDAN.is_dir(), reason="the shared data set is not there")
def test_shared_photos_and_pedestrian_detector_give_five_levels(tmp_path: Path) -> None:
    split = f"{{images: {PENNFUDAN}/images, annotations: {PENNFUDAN}/annotations/val.json}}"
    text = (
        f"data: {{name: pennfudan, format: coco, splits: {{val: {split}}}}}\n"
        f"detector: {{builder: fasterrcnn_mobilenet_v2_fpn, checkpoint: {PEDESTRIAN}, "
        "min_size: 320, max_size: 533}\n"
    )
    config = write_config(tmp_path / "pennfudan.yaml", text)
    cache = must_extract(config, tmp_path, "--limit", "2", split="val")
    manifest = Manifest.load(cache)
    assert [level.stride_px for level in manifest.levels] == [4, 8, 16, 32, 64]
    assert manifest.levels[4].derived_from == 3
    with LevelReader(cache, 0) as reader:
        height, width, channels = reader.shape(0)
        bucket = manifest.buckets[manifest.samples[0].bucket]
        assert (height * 4, width * 4, channels) == (bucket.height_px, bucket.width_px, 256)


def test_features_do_not_depend_on_the_number_of_cores(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    torch.set_num_threads(3)
    try:
        folder = must_extract(zarr_cache.config, tmp_path)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert fingerprints(folder) == fingerprints(zarr_cache.folder)


def test_overwrite_goes_on_with_a_cache_of_the_same_plan(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    shutil.copytree(zarr_cache.folder, tmp_path / "train")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("c.*")}
    must_extract(zarr_cache.config, tmp_path, "--overwrite")
    assert before
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_empty_list_of_levels_is_one_line(zarr_cache: TinyCache, tmp_path: Path) -> None:
    error = error_of(run_extract(zarr_cache.config, tmp_path, "--set", "cache.levels=[]"))
    assert "cache.levels" in error


def test_progress_that_goes_into_a_file_is_a_line_now_and_then_not_one_a_batch(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, detector = plan_of(tiny_config)
    images = load_images(load_config(str(tiny_config)).data, "train")
    extract.features.extraction.extract(tmp_path, manifest, images, detector.model, batch_size=1)
    assert len(manifest.samples) > 2
    assert capsys.readouterr().err.count("image/s") <= 2  # its first and its last
