"""Augmented splits: what a view shows, how views are named and numbered, and caches of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from configs.config_files import load_config
from configs.errors import BadImageError, ConfigError
from configs.schema.data import AugmentationConfig
from data.cache.manifest import Manifest
from data.images.image_sets import read_image
from data.images.labels import LabelledBox, make_record
from data.images.records import ImageSet
from data.images.views import View, is_view, split_view, with_views
from data.reading.level_reader import LevelReader
from extract.detector.loading import backbone_levels, load_detector, prepare_images
from extract.dry_run.ways_to_fit import _bytes_of, _limit, fits
from tests.support.datasets import save_image
from tests.support.extraction import error_of, fingerprints
from tests.support.photos import Photos
from tests.support.photos import photos as photos

FACTORS = st.integers(1, 2000).map(lambda thousandths: thousandths / 1000)
VIEWS = st.builds(
    View,
    x=st.integers(0, 9999), y=st.integers(0, 9999),
    width=st.integers(1, 9999), height=st.integers(1, 9999),
    flip=st.booleans(), light=st.tuples(FACTORS, FACTORS, FACTORS),
)  # fmt: skip


def image_set(ids: list[int], width: int = 96, height: int = 64) -> ImageSet:
    box = LabelledBox(xyxy=(10, 20, 40, 50), category_id=1)
    records = tuple(
        make_record(image_id=n, file=f"{n}.png", size_hw=(height, width), boxes=[box]) for n in ids
    )
    return ImageSet(split="train", records=records, categories={1: "cat"})


def augmented_config(photos: Photos, path: Path, text: str = "{crops: 2}") -> Path:
    """The photos' configuration with a train split of more views."""
    config = photos.configure(path)
    line = f"annotations: {photos.root}/train.json"
    config.write_text(config.read_text().replace(line, f"{line}, augmentation: {text}"))
    return config


@given(file=st.text(min_size=1).filter(lambda name: "#xywh" not in name), view=VIEWS)
def test_name_of_a_view_says_all_of_it(file: str, view: View) -> None:
    assert split_view(file + view.ending) == (file, view)
    assert is_view(file + view.ending) and not is_view(file)
    assert split_view(file) == (file, None)


@given(data=st.data())
def test_boxes_of_a_view_lie_where_the_view_shows_their_pixels(data: st.DataObject) -> None:
    width, height = 40, 30
    left, top = data.draw(st.integers(0, 38)), data.draw(st.integers(0, 28))
    right = data.draw(st.integers(left + 1, width))
    bottom = data.draw(st.integers(top + 1, height))
    x, y = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 29))
    view = View(
        x=x, y=y, width=data.draw(st.integers(1, width - x)),
        height=data.draw(st.integers(1, height - y)), flip=data.draw(st.booleans()),
    )  # fmt: skip
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = 255
    rows, columns = np.nonzero(view.of(image, "a.png")[..., 0])
    (found,) = view.boxes(np.array([[left, top, right, bottom]], np.float32))
    if len(rows) == 0:
        assert found[2] <= found[0] or found[3] <= found[1]
    else:
        shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(found, shown)


def test_light_is_changed_as_pillow_changes_it_and_in_that_order(tmp_path: Path) -> None:
    file = save_image(tmp_path / "a.png", 50, 40)
    view = View(x=3, y=5, width=30, height=20, flip=True, light=(1.2, 0.9, 0.85))
    picture = Image.open(file).crop((3, 5, 33, 25)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = ImageEnhance.Brightness(picture).enhance(1.2)
    picture = ImageEnhance.Contrast(picture).enhance(0.9)
    picture = ImageEnhance.Color(picture).enhance(0.85)
    np.testing.assert_array_equal(read_image(f"{file}{view.ending}"), np.array(picture))


def test_part_that_the_image_no_longer_has_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = save_image(tmp_path / "a.png", 20, 20)
    with pytest.raises(BadImageError, match=r"a\.png: is 20x20 px, too small for this part"):
        read_image(f"{file}#xywh=10,10,11,10")


def test_images_come_first_then_their_mirror_images_then_round_by_round_a_part_of_each() -> None:
    images = image_set([5, 119, 42])
    views = with_views(images, AugmentationConfig(crops=2))
    assert views.records[:3] == images.records
    ids = [record.image_id for record in views.records]
    assert ids == [5, 119, 42, 1005, 1119, 1042, 2005, 2119, 2042, 3005, 3119, 3042]
    assert [record.file for record in views.records[3:6]] == [
        f"{n}.png#xywh=0,0,96,64&flip" for n in (5, 119, 42)
    ]
    assert ["&flip" in record.file for record in views.records[6:]] == [False] * 3 + [True] * 3
    np.testing.assert_array_equal(views.records[3].boxes_xyxy, [[56, 20, 86, 50]])
    assert with_views(images, None) is images


@given(ids=st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=8, unique=True))
def test_ids_of_views_are_unique_whatever_the_ids_of_the_images(ids: list[int]) -> None:
    views = with_views(image_set(ids), AugmentationConfig(crops=2))
    assert len({record.image_id for record in views.records}) == 4 * len(ids)


def test_ids_without_room_for_views_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.splits\.train\.augmentation: image ids of 17"):
        with_views(image_set([10**16]), AugmentationConfig())


def test_parts_have_sides_and_light_within_their_ranges_and_depend_on_seed_and_image_alone() -> (
    None
):
    given_ids = list(range(1, 60))
    augmentation = AugmentationConfig(flip=False, crops=3)
    views = with_views(image_set(given_ids), augmentation).records[59:]
    found = [split_view(record.file)[1] for record in views]
    assert len(set(found)) == len(found) == 3 * 59
    for view in found:
        assert view is not None and not view.flip
        assert 0.55 * 96 - 1 < view.width < 0.9 * 96 + 1
        assert abs(view.width / view.height - 96 / 64) < 0.05
        assert view.x + view.width <= 96 and view.y + view.height <= 64
        brightness, contrast, saturation = (abs(factor - 1) for factor in view.light)
        assert brightness <= 0.2 and contrast <= 0.15 and saturation <= 0.2
    fewer = with_views(image_set(given_ids[:7]), augmentation).records[7:14]
    assert [split_view(record.file)[1] for record in fewer] == found[:7]
    other = with_views(image_set(given_ids), augmentation.model_copy(update={"seed": 1}))
    assert split_view(other.records[59].file)[1] != found[0]


def test_parts_without_change_of_light_are_cut_alone() -> None:
    augmentation = AugmentationConfig(flip=False, brightness=0.0, contrast=0.0, saturation=0.0)
    views = with_views(image_set([1]), augmentation)
    assert all("bcs" not in record.file for record in views.records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{crop_scale: [0.9, 0.5]}", "crop_scale: 0.9 is more than 0.5: write [least, most]"),
        ("{crop_scale: [0.5, 1.5]}", "less than or equal to 1"),
        ("{flips: true}", "did you mean 'flip'?"),
        ("true", "augmentation: True is not allowed: write a section, or {} for its defaults"),
    ],
)
def test_wrong_setting_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[f"data.splits.train.augmentation={text}"])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_cache_of_views_holds_the_detectors_features_of_each(
    photos: Photos, tmp_path: Path
) -> None:
    config = augmented_config(photos, tmp_path / "c.yaml")
    features = photos.must_extract(tmp_path / "features", config=config)
    manifest = Manifest.load(features / "train")
    assert len(manifest.samples) == 3 * 4 and len(Manifest.load(features / "val").samples) == 2
    model = load_detector(load_config(str(config)).detector).model
    with LevelReader(features / "train", 1) as reader:
        for index, sample in enumerate(manifest.samples):
            file, view = split_view(sample.file)
            image = np.array(Image.open(file).convert("RGB"))
            shown = image if view is None else view.of(image, file)
            with torch.inference_mode():
                batch, _ = prepare_images(model, [shown])
                (expected,) = list(backbone_levels(model, batch).values())[1].half()
            np.testing.assert_array_equal(reader.sample(index), expected.permute(1, 2, 0))
    before = fingerprints(features / "train")
    assert (
        "all 12 images are in" in photos.run("extraction", config=config, features=features).output
    )
    assert fingerprints(features / "train") == before


def test_limit_counts_images_and_not_their_views(photos: Photos, tmp_path: Path) -> None:
    config = augmented_config(photos, tmp_path / "c.yaml", "{}")
    features = photos.must_extract(tmp_path / "features", "--limit", "2", config=config)
    samples = Manifest.load(features / "train").samples
    assert len(samples) == 12
    assert [sample.image_id for sample in samples[:4]] == [3, 1, 13, 11]


def test_advised_limit_is_the_most_images_that_fit_with_all_their_views(
    photos: Photos, tmp_path: Path
) -> None:
    config = augmented_config(photos, tmp_path / "c.yaml")
    features = photos.must_extract(tmp_path / "features", config=config)
    manifest = Manifest.load(features / "train")
    needed = []
    for images in (1, 2, 3):
        of_them = [n for n in range(12) if n % 3 < images]
        shapes = [manifest.buckets[manifest.samples[n].bucket].level_shapes for n in of_them]
        needed.append(sum(_bytes_of(manifest, each) for each in shapes))
    for images, num_bytes in enumerate(needed, start=1):
        smallest = next(free for free in range(num_bytes, 2 * num_bytes) if fits(num_bytes, free))
        assert _limit(manifest, smallest) == f"--limit {images}"
        less = f"--limit {images - 1}" if images > 1 else None
        assert _limit(manifest, smallest - 1) == less


def test_bad_image_is_left_out_with_all_its_views(photos: Photos, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("1", "2", "3", "4", "5"):
        save_image(data / "images" / f"{name}.png", 96, 64)
    (data / "images" / "1.png").write_bytes((data / "images" / "1.png").read_bytes()[:200])
    for name in ("train", "val"):
        (data / f"{name}.json").write_text((photos.root / f"{name}.json").read_text())
    config = augmented_config(replace(photos, root=data), tmp_path / "c.yaml")
    config.write_text(config.read_text().replace(f"{data}/detector.pth", str(photos.detector)))
    result = photos.run("extraction", "--skip-bad-images", config=config, features=tmp_path / "f")
    assert result.exit_code == 0, result.output
    assert "train: 1 of 3 images were skipped as unreadable" in result.output
    assert len(Manifest.load(tmp_path / "f/train").samples) == 2 * 4
    result = photos.run("training", config=config, features=tmp_path / "f")
    assert result.exit_code == 0, result.output


def test_cache_of_other_views_is_refused_by_extraction_and_training(
    photos: Photos, tmp_path: Path
) -> None:
    config = augmented_config(photos, tmp_path / "c.yaml")
    features = photos.must_extract(tmp_path / "features", config=config)
    before = fingerprints(features / "train")
    other = augmented_config(photos, tmp_path / "other.yaml", "{crops: 2, seed: 1}")
    for changed in (photos.config, other):
        for name in ("extraction", "training"):
            result = photos.run(name, config=changed, features=features)
            assert "(augmentation: {'flip': True, 'crops': 2," in error_of(result)
    assert fingerprints(features / "train") == before
    trained = photos.run("training", config=config, features=features)
    assert trained.exit_code == 0, trained.output


def test_manifest_of_images_alone_says_nothing_of_views(photos: Photos) -> None:
    assert "augmentation" not in (photos.features / "train/manifest.json").read_text()
