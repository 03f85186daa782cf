"""Bad images stop an extraction by name, or are left out and recorded; label errors always stop."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from data.cache.annotations import read_annotations
from data.cache.manifest import Manifest
from tests.support.datasets import save_image
from tests.support.extraction import error_of, fingerprints, must_extract, run_extract, write_config
from train.cli import train_level

HINT = ", or run with --skip-bad-images"
SKIP = "--skip-bad-images"


def no_image(path: Path) -> None:
    path.write_text("no image")


def cut_short(path: Path) -> None:
    save_image(path, 96, 64)
    path.write_bytes(path.read_bytes()[:-2000])


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((64, 96), 40_000, np.uint16)).save(path)


def other_size(path: Path) -> None:
    save_image(path, 90, 64)


def missing(path: Path) -> None:
    path.unlink(missing_ok=True)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "b.jpg": (no_image, "not an image that can be read"),
    "d.png": (cut_short, "unreadable image ("),
    "e.png": (sixteen_bits, "pixels of more than 8 bits (mode I;16)"),
    "g.jpg": (missing, "no such image"),
    "h.png": (other_size, "is 64x90 px, the data set says 64x96"),
}
GOOD = ["a.png", "c.jpg", "f.png"]
NAMES = sorted([*GOOD, *DAMAGES])
# A plain folder has nobody who says another size, so that this image is a good one there.
GOOD_IN = {"coco": GOOD, "folder": [*GOOD, "h.png"]}


def configure(folder: Path, detector_yaml: Path, format: str, names: list[str]) -> Path:
    """Write the data set's lists and a configuration; every image is said to be 96x64 px."""
    sides = {"width": 96, "height": 64}
    content = {
        "images": [
            {"id": 10 + n, "file_name": name, **sides} for n, name in enumerate(names)
        ],
        "annotations": [
            {"id": n + 1, "image_id": 10 + n, "category_id": 1, "bbox": [n, 4, 20, 30]}
            for n in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip
    (folder / "coco.json").write_text(json.dumps(content))
    (folder / "list.txt").write_text("\n".join(names))
    more = (
        f"annotations: {folder}/coco.json" if format == "coco" else f"image_list: {folder}/list.txt"
    )
    split = f"{{images: {folder}/images, {more}}}"
    text = detector_yaml.read_text(encoding="utf-8")
    start, end = text.index("  splits:"), text.index("detector:")
    data = f"  format: {format}\n  splits: {{train: {split}, val: {split}}}\n"
    model = "model: {n_hidden: 8, n_channels: 12}\n"
    return write_config(folder / "config.yaml", text[:start] + data + text[end:] + model)


@pytest.fixture(params=["folder", "coco"])
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in NAMES:
        save_image(tmp_path / "images" / name, 96, 64)
    return tmp_path / "images"


@pytest.fixture
def damaged(images: Path) -> Path:
    for name, (damage, _) in DAMAGES.items():
        damage(images / name)
    return images


def test_without_the_option_each_kind_stops_with_its_file_and_the_way_out(
    images: Path, tmp_path: Path, tiny_config: Path, format: str
) -> None:
    config = configure(tmp_path, tiny_config, format, NAMES)
    for name, (damage, reason) in DAMAGES.items():
        if name in GOOD_IN[format]:
            continue
        damage(images / name)
        error = error_of(run_extract(config, tmp_path / name))
        assert name in error
        assert HINT in error
        if name != "g.jpg":  # its line is about the list that names it
            assert error.startswith(f"{images / name}: {reason}")
        save_image(images / name, 96, 64)


def test_skipped_images_are_recorded_and_the_features_are_those_without_them(
    damaged: Path, tmp_path: Path, tiny_config: Path, format: str
) -> None:
    config = configure(tmp_path, tiny_config, format, NAMES)
    result = run_extract(config, tmp_path / "cache", SKIP, "--workers", "3")
    assert result.exit_code == 0, result.output
    cache = tmp_path / "cache" / "train"
    good = GOOD_IN[format]
    bad = [name for name in NAMES if name not in good]
    told = f"train: {len(bad)} of 8 images were skipped as unreadable: see {cache}/manifest.json"
    assert result.stdout.splitlines()[-1] == told
    manifest = Manifest.load(cache)
    assert [image.file for image in manifest.skipped] == [str(damaged / name) for name in bad]
    for image in manifest.skipped:
        assert image.reason.startswith(DAMAGES[Path(image.file).name][1])
    assert [sample.file for sample in manifest.samples] == [str(damaged / name) for name in good]
    assert json.loads((cache / "manifest.json").read_text())["skipped"][0] == {
        "file": str(damaged / "b.jpg"), "reason": "not an image that can be read",
    }  # fmt: skip
    kept = read_annotations(cache / "annotations.json", "train").records
    assert [Path(record.file).name for record in kept] == good
    if format == "coco":
        assert [record.image_id for record in kept] == [10, 12, 15]
        assert [record.boxes_xyxy[0, 0] for record in kept] == [0, 2, 5]

    alone = must_extract(configure(tmp_path, tiny_config, format, good), tmp_path / "alone")
    found, expected = fingerprints(cache), fingerprints(alone)
    for name in ("manifest.json", "annotations.json"):
        assert (found.pop(name) == expected.pop(name)) is (
            name == "annotations.json" and format == "folder"
        )
    units = [(one / "commits.jsonl").read_bytes().split(b"\n")[1:] for one in (cache, alone)]
    assert units[0] == units[1]
    del found["commits.jsonl"], expected["commits.jsonl"]  # their first lines name the manifests
    assert found == expected


def test_run_without_the_option_on_a_cache_made_with_it_says_to_add_it(
    images: Path, tmp_path: Path, tiny_config: Path, format: str
) -> None:
    cut_short(images / "d.png")
    config = configure(tmp_path, tiny_config, format, NAMES)
    must_extract(config, tmp_path / "cache", SKIP)
    error = error_of(run_extract(config, tmp_path / "cache"))
    assert error == (
        f"{tmp_path}/cache/train: holds a cache of another plan (images: 7 there, 8 now): add "
        "--skip-bad-images, as it left out 1, or choose another --features; --overwrite would "
        "remove this cache for the new one"
    )
    result = run_extract(config, tmp_path / "cache", SKIP)
    assert result.stdout.startswith("train: all 7 images are in ")


def test_training_takes_a_cache_of_which_bad_images_were_left_out(
    damaged: Path, tmp_path: Path, tiny_config: Path, format: str
) -> None:
    config = configure(tmp_path, tiny_config, format, NAMES)
    must_extract(config, tmp_path / "cache", SKIP, "--split", "val")

    def train() -> Any:
        return CliRunner().invoke(train_level, [
            "--level", "4", "--config", str(config), "--features", str(tmp_path / "cache"),
            "--epochs", "1", "--out", str(tmp_path / "out"),
        ])  # fmt: skip

    result = train()
    assert result.exit_code == 0, result.output
    configure(tmp_path, tiny_config, format, [name for name in NAMES if name != "c.jpg"])
    there = len(GOOD_IN[format])
    assert f"(images: {there} there, {there - 1} now)" in error_of(train())


def test_limit_counts_bad_images_too(
    damaged: Path, tmp_path: Path, tiny_config: Path, format: str
) -> None:
    config = configure(tmp_path, tiny_config, format, NAMES)
    manifest = Manifest.load(must_extract(config, tmp_path / "cache", SKIP, "--limit", "4"))
    assert manifest.image_limit == 4
    assert [Path(sample.file).name for sample in manifest.samples] == ["a.png", "c.jpg"]
    assert [Path(image.file).name for image in manifest.skipped] == ["b.jpg", "d.png"]


def test_dry_run_tells_how_many_would_be_skipped_and_writes_nothing(
    damaged: Path, tmp_path: Path, tiny_config: Path
) -> None:
    config = configure(tmp_path, tiny_config, "coco", NAMES)
    result = run_extract(config, tmp_path / "cache", SKIP, "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == ("train: 5 of 8 images would be skipped as unreadable")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("names", [["b.jpg", "g.jpg"], ["d.png", "e.png"]])
def test_split_of_bad_images_alone_is_refused(
    damaged: Path, tmp_path: Path, tiny_config: Path, format: str, names: list[str]
) -> None:
    config = configure(tmp_path, tiny_config, format, names)
    error = error_of(run_extract(config, tmp_path / "cache", SKIP))
    reason = DAMAGES[names[0]][1]
    assert error.startswith(
        f"data.splits.train: none of its 2 images can be used (the first: {damaged / names[0]}: "
        f"{reason}"
    )
    assert error.endswith("correct the paths, or fetch the images again")


def test_scenes_are_never_bad(tiny_config: Path, tmp_path: Path) -> None:
    result = run_extract(tiny_config, tmp_path, SKIP, "--limit", "2")
    assert result.exit_code == 0, result.output
    assert "skipped" not in result.output


@pytest.fixture
def kitti(images: Path, tmp_path: Path, tiny_config: Path) -> Path:
    """The images with a KITTI label each; one of them is bad."""
    no_image(images / "b.jpg")
    for name in NAMES:
        label = "Car 0 0 0 1 2 30 40 1 1 1 1 1 1 1\n"
        (tmp_path / "labels" / f"{Path(name).stem}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{Path(name).stem}.txt").write_text(label)
    config = configure(tmp_path, tiny_config, "folder", NAMES)
    text = config.read_text().replace("format: folder", "format: kitti")
    labels = f"images, annotations: {tmp_path}/labels, image_list"
    return write_config(config, text.replace("images, image_list", labels))


def test_kitti_image_without_readable_header_is_skipped_with_its_labels(
    kitti: Path, tmp_path: Path
) -> None:
    cache = must_extract(kitti, tmp_path / "cache", SKIP)
    kept = read_annotations(cache / "annotations.json", "train").records
    assert [Path(record.file).name for record in kept] == [n for n in NAMES if n != "b.jpg"]
    assert [record.image_id for record in kept] == list(range(1, 8))
    assert all(record.boxes_xyxy.tolist() == [[1, 2, 30, 40]] for record in kept)


@pytest.mark.parametrize("name", ["b.txt", "c.txt"])
def test_label_error_is_never_skipped(kitti: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "labels" / name).write_text("Car 0 0 0 1 2 x 4\n")
    error = error_of(run_extract(kitti, tmp_path / "cache", SKIP))
    assert (
        error == f"{tmp_path}/labels/{name}: line 1: right: 'x' is not a number: correct the line"
    )


def test_failure_of_the_disk_is_never_taken_for_a_bad_image(
    images: Path, tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, **_: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error", str(path))

    config = configure(tmp_path, tiny_config, "coco", NAMES)
    monkeypatch.setattr(Image, "open", fail)
    error = error_of(run_extract(config, tmp_path / "cache", SKIP))
    assert (
        error == f"{images / 'a.png'}: cannot be read (Input/output error): check disk and rights"
    )
