"""A cache knows its images by their names inside the data set, wherever that lies."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from PIL import Image

from configs.config_files import load_config
from configs.errors import CacheError
from data.cache.annotations import ANNOTATIONS_NAME, boxes_of
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import FILE_NAME, Manifest
from data.images.image_sets import image_files, load_images
from data.images.records import ImageFiles
from extract.features import extraction
from extract.features.extraction import extract
from extract.features.finished import finished_without_detector
from tests.commands.test_stale_caches import name_as_plan
from tests.support.photos import Photos, photos

__all__ = ["photos"]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def features(photos: Photos, tmp_path: Path) -> Path:
    shutil.copytree(photos.features, tmp_path / "features")
    return tmp_path / "features"


def through_a_link(root: Path) -> Path:
    Path("link").symlink_to(root)
    return Path("link").absolute()


def relative(root: Path) -> Path:
    return Path(os.path.relpath(root))


def copied(root: Path) -> Path:
    shutil.copytree(root, "copy", ignore=shutil.ignore_patterns("features"))
    return Path("copy")


PATHS: list[Callable[[Path], Path]] = [through_a_link, relative, copied]


def as_before(cache: Path, change: Callable[[dict[str, Any]], object] = lambda raw: None) -> None:
    """Let the manifest be as programs wrote it that did not say where the images lay."""
    raw = json.loads((cache / FILE_NAME).read_text())
    del raw["image_files"]
    change(raw)
    Manifest.from_json(raw).save(cache)
    name_as_plan(cache / FILE_NAME)


def is_finished(photos: Photos, features: Path, root: Path, split: str = "train") -> bool:
    config = load_config(str(photos.configure(Path("c.yaml"), root)))
    images = load_images(config.data, split)
    return finished_without_detector(features / split, images, config)


def planned(photos: Photos, features: Path, root: Path) -> Manifest:
    """The plan of the train split, whose detector is that of the cache."""
    config = load_config(str(photos.configure(Path("c.yaml"), root)))
    images = load_images(config.data, "train")
    made = Manifest.load(features / "train")
    samples = tuple(
        dataclasses.replace(sample, file=record.file)
        for sample, record in zip(made.samples, images.records, strict=True)
    )
    return dataclasses.replace(made, samples=samples, image_files=image_files(images))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("reach", PATHS)
def test_images_reached_by_another_path_are_the_same(
    photos: Photos, features: Path, reach: Callable[[Path], Path], old: bool
) -> None:
    if old:
        as_before(features / "train")
    before = (features / "train" / FILE_NAME).read_bytes()
    assert is_finished(photos, features, photos.root)
    assert is_finished(photos, features, reach(photos.root))
    assert (features / "train" / FILE_NAME).read_bytes() == before


def test_command_says_that_all_is_there_and_where_the_images_are_now(
    photos: Photos, features: Path
) -> None:
    config = photos.configure(Path("c.yaml"), copied(photos.root))
    result = photos.run("extraction", "--split", "train", config=config, features=features)
    assert result.exit_code == 0, result.output
    assert f"train: all 3 images are in {features}/train already" in result.output


def other_content(path: Path) -> None:
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(path)


@pytest.mark.parametrize("old", [False, True])
def test_other_files_of_the_same_names_and_sizes_in_another_folder_are_refused(
    photos: Photos, features: Path, old: bool
) -> None:
    if old:
        as_before(features / "train")
    root = copied(photos.root)
    for path in (root / "images").iterdir():
        other_content(path)
    assert not is_finished(photos, features, root)
    plan = planned(photos, features, root)
    there = Manifest.load(features / "train")
    told = f"images: other files of these names in {photos.root}/images than in copy/images"
    assert plan.difference_from(there) == told
    if not old:
        assert plan.fingerprint != there.fingerprint


def test_other_names_inside_the_folder_are_refused(photos: Photos, features: Path) -> None:
    root = copied(photos.root)
    (root / "images/sub").mkdir()
    content = json.loads((root / "train.json").read_text())
    for image in content["images"]:
        shutil.move(root / "images" / image["file_name"], root / "images/sub")
        image["file_name"] = f"sub/{image['file_name']}"
    (root / "train.json").write_text(json.dumps(content))
    assert planned(photos, features, root).difference_from(Manifest.load(features / "train")) == (
        f"image list: {photos.root}/images/3.png there, copy/images/sub/3.png now"
    )


def test_fingerprint_depends_on_what_is_compared_and_on_no_path(
    photos: Photos, features: Path
) -> None:
    made = Manifest.load(features / "train")
    plan = planned(photos, features, copied(photos.root))
    assert plan.samples[0].file == "copy/images/3.png"
    assert plan.fingerprint == made.fingerprint
    assert plan.sha256 != made.sha256 == CacheFolder(features / "train").manifest_sha256
    moved = made.detector | {"checkpoint": "elsewhere.pth", "configured": None, "classes": ["x"]}
    assert dataclasses.replace(made, detector=moved).fingerprint == made.fingerprint
    for change in (
        {"dtype": "float32"}, {"samples": made.samples[::-1]}, {"levels": made.levels[:2]},
        {"detector": made.detector | {"weights_sha256": "0"}},
        {"samples": (dataclasses.replace(made.samples[0], input_width=7), *made.samples[1:])},
    ):  # fmt: skip
        assert dataclasses.replace(made, **change).fingerprint != made.fingerprint


def test_fingerprint_of_an_older_manifest_is_that_of_its_file(features: Path) -> None:
    as_before(features / "train")
    folder = CacheFolder(features / "train")
    assert folder.manifest.fingerprint == folder.manifest_sha256


def test_ids_of_a_cache_and_of_its_boxes_are_those_of_one_made_by_another_path(
    photos: Photos, features: Path
) -> None:
    config = photos.configure(Path("c.yaml"), copied(photos.root))
    again = photos.must_extract(Path("again"), config=config)
    for split in ("train", "val"):
        here, there = CacheFolder(features / split), CacheFolder(again / split)
        assert here.manifest_sha256 != there.manifest_sha256
        assert here.content_id == there.content_id
        files = [folder.path / ANNOTATIONS_NAME for folder in (here, there)]
        boxes, others = (boxes_of(path, with_paths=False) for path in files)
        assert boxes == others
        assert len({boxes_of(path, with_paths=True) for path in files}) == 2
    as_before(features / "val")
    assert CacheFolder(features / "val").content_id != here.content_id


@pytest.mark.parametrize("old", [False, True])
def test_damaged_manifest_is_written_anew_as_it_was(
    photos: Photos, features: Path, old: bool
) -> None:
    if old:
        as_before(features / "train")
    path = features / "train" / FILE_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    result = photos.run("extraction", features=features)
    assert result.exit_code == 0, result.output
    assert path.read_bytes() == whole


def test_read_only_cache_of_another_plan_is_refused_with_the_difference(
    photos: Photos, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(_: Path) -> NoReturn:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(extraction, "CommitLog", read_only)
    cache = features / "train"
    made = Manifest.load(cache)
    config = load_config(str(photos.config))
    images = load_images(config.data, "train")
    assert extract(cache, made, images, None).num_new_images == 0
    assert extract(cache, planned(photos, features, copied(photos.root)), images, None).num_images
    other = dataclasses.replace(made, dtype="float32")
    with pytest.raises(CacheError) as raised:
        extract(cache, other, images, None)
    assert str(raised.value) == (
        f"{cache}: cannot be written (Read-only file system), and holds a cache of another plan "
        "(dtype: 'float16' there, 'float32' now): use the settings that made it, or choose another "
        "--features"
    )


@pytest.mark.parametrize(
    ("files", "named", "folder"),
    [
        (("/d/a.png", "/d/s/b.png"), "/d", "/d"),
        (("/d/a.png", "/d/s/b.png"), "/d/", "/d"),
        (("/d/s/a.png", "/d/s/b.png"), None, "/d/s"),
        (("/d/s/a.png", "/e/b.png"), "/d", "/"),
        (("a.png", "s/b.png"), ".", ""),
        (("a.png", "/d/b.png"), None, ""),
        (("scene:1:0", "scene:1:1"), None, ""),
    ],
)
def test_folder_of_a_split_is_the_one_named_or_the_deepest_that_all_share(
    photos: Photos, files: tuple[str, ...], named: str | None, folder: str
) -> None:
    images = load_images(load_config(str(photos.config)).data, "train")
    records = tuple(
        dataclasses.replace(record, file=file)
        for record, file in zip(images.records[:2], files, strict=True)
    )
    found = image_files(dataclasses.replace(images, records=records, folder=named))
    assert found.folder == folder


def test_names_are_relative_and_without_an_orientation_of_no_effect() -> None:
    files = ImageFiles(folder="/d", xxh3="")
    assert files.name_of("/d/s/a.jpg#orientation=1#xywh=0,0,9,9") == "s/a.jpg#xywh=0,0,9,9"
    assert files.name_of("/d/s/a.jpg#orientation=6") == "s/a.jpg#orientation=6"
    assert files.name_of("/e/a.jpg") == "/e/a.jpg"
    assert ImageFiles(folder="/").name_of("/d/a.jpg") == "d/a.jpg"


def test_manifest_names_the_folder_of_its_images(photos: Photos) -> None:
    made = Manifest.load(photos.features / "val").image_files
    assert made is not None
    assert made.folder == str(photos.root / "images")
    assert len(made.xxh3) == 32
