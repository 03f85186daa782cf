"""A cache that the configuration would not have made is refused by all three commands alike."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data.cache.commit_log import CommitLog
from data.cache.manifest import Manifest
from tests.support.extraction import error_of
from tests.support.photos import COMMANDS, READERS, Photos, coco_of, photos, write_lists

__all__ = ["photos"]


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def more_images(photos: Photos, folder: Path) -> Path:
    return photos.configure(folder / "c.yaml", write_lists(folder, [3, 1, 2, 6], [4, 5, 6]))


def another_order(photos: Photos, folder: Path) -> Path:
    return photos.configure(folder / "c.yaml", write_lists(folder, [1, 2, 3], [5, 4]))


def other_ids(photos: Photos, folder: Path) -> Path:
    for name, numbers in (("train", [3, 1, 2]), ("val", [4, 5])):
        content = coco_of(numbers)
        for number, image in enumerate(content["images"]):
            image["id"] = content["annotations"][number]["image_id"] = number + 70
        (folder / f"{name}.json").write_text(json.dumps(content))
    return photos.configure(folder / "c.yaml", folder)


OTHER_BUILDER = (
    "--set", "detector.builder=fasterrcnn_mobilenet_v3_large_320_fpn",
    "--set", "detector.checkpoint=null", "--set", "detector.weights=random",
)  # fmt: skip
WAY_OUT = {
    "extraction": "another --features; --overwrite would remove this cache for the new one",
    "training": "into another folder: extract-features --split train --features DIR",
    "analysis": "into another folder: extract-features --split val --features DIR",
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--set", "data.name=pictures"), "dataset: 'photos' there, 'pictures' now"),
        (OTHER_BUILDER, "detector builder: 'fasterrcnn_mobilenet_v2_fpn' there, 'fasterrcnn_mob"),
        (("--set", "detector.min_size=60"), "detector min_size: 64 there, 60 now"),
        (("--set", "detector.max_size=90"), "detector max_size: 96 there, 90 now"),
        (("--set", "cache.dtype=float32"), "dtype: 'float16' there, 'float32' now"),
        (("--set", "cache.container=hdf5"), "container: 'zarr' there, 'hdf5' now"),
    ],
)
def test_other_settings_are_refused_and_the_difference_named(
    photos: Photos, name: str, options: tuple[str, ...], difference: str
) -> None:
    error = error_of(photos.run(name, *options))
    assert error.startswith(str(photos.features))
    assert f"({difference}" in error
    assert error.endswith(WAY_OUT[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_another_fixed_input_size_is_refused(photos: Photos, name: str) -> None:
    error = error_of(photos.run(name, "--set", "detector.resize=[64,96]"))
    assert error.endswith(WAY_OUT[name])
    assert "detector resize: None there, [64, 96] now" in error


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (more_images, {"train": "images: 3 there, 4 now", "val": "images: 2 there, 3 now"}),
        (another_order, {"train": "3.png there, ", "val": "4.png there, "}),
        (other_ids, {"train": "image list: ", "val": "image list: "}),
    ],
)
def test_another_image_list_is_refused_and_the_difference_named(
    photos: Photos,
    tmp_path: Path,
    name: str,
    change: Callable[[Photos, Path], Path],
    difference: dict[str, str],
) -> None:
    shutil.copytree(photos.root / "images", tmp_path / "images")
    error = error_of(photos.run(name, config=change(photos, tmp_path)))
    assert difference["val" if name == "analysis" else "train"] in error
    assert error.endswith(WAY_OUT[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_other_weights_are_refused_and_both_are_named(photos: Photos, name: str) -> None:
    made_by = Manifest.load(photos.features / "val").detector["weights_sha256"]
    other = photos.root / "other.pth"
    error = error_of(photos.run(name, "--detection-checkpoint", str(other)))
    if name == "extraction":
        assert f"(detector weights_sha256: '{made_by[:19]}...' there, '" in error
    else:
        assert f"holds features of detector weights {made_by[:12]} ({photos.detector}), " in error
        assert f"({other}): name the checkpoint that made the cache with --detection-" in error
    assert error.endswith(WAY_OUT[name])


def name_as_plan(manifest: Path) -> None:
    """Let the commits be of this manifest: one that they are not of is damaged, and is mended."""
    commits = manifest.parent / "commits.jsonl"
    lines = commits.read_bytes().splitlines(keepends=True)
    commits.write_bytes(b"".join(line for line in lines if not line.startswith(b'{"plan":')))
    with CommitLog(manifest.parent) as log:
        log.name_plan(hashlib.sha256(manifest.read_bytes()).hexdigest())


@pytest.mark.parametrize("name", COMMANDS)
def test_cache_of_another_format_version_is_refused(
    photos: Photos, tmp_path: Path, name: str
) -> None:
    shutil.copytree(photos.features, tmp_path / "features")
    for path in (tmp_path / "features").glob("*/manifest.json"):
        text = path.read_text().replace('"format_version": 1', '"format_version": 3')
        path.write_text(text)
        name_as_plan(path)
    error = error_of(photos.run(name, features=tmp_path / "features"))
    assert error.endswith(
        "/manifest.json: is of format version 3, this program reads 1 and 2: "
        "run extract-features --overwrite"
    )


@pytest.mark.parametrize("name", READERS)
def test_folder_of_another_split_is_refused(photos: Photos, tmp_path: Path, name: str) -> None:
    for split, other in (("train", "val"), ("val", "train")):
        shutil.copytree(photos.features / split, tmp_path / "features" / other)
    error = error_of(photos.run(name, features=tmp_path / "features"))
    assert "(split: '" in error


def test_training_compares_the_val_cache_too(photos: Photos, tmp_path: Path) -> None:
    config = photos.configure(tmp_path / "c.yaml", write_lists(tmp_path, [3, 1, 2], [4, 5, 6]))
    error = error_of(photos.run("training", config=config))
    assert error.startswith(f"{photos.features / 'val'}: is of another image list (images: 2 there")
    assert not Path("checkpoints").exists()
