"""Anchors over a whole tiny pyramid: rates add up, detection sees what was decoded, all is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analyze.anchors.anchor_study
from analyze.anchors.anchor_split import AnchorSplit
from analyze.anchors.anchor_study import study_anchors
from analyze.anchors.contract import fitting_indices
from analyze.anchors.float16 import Float16Anchor
from analyze.anchors.klt import KltAnchor
from analyze.anchors.uniform import UniformAnchor
from analyze.detection.heads_on_levels import backbone_keys
from analyze.facts.kept_results import Kept
from analyze.image_coding.image_anchors import image_av1, image_jpeg
from analyze.image_coding.image_study import study_images
from analyze.maps.replacements import derivations
from analyze.measure.split import open_split
from analyze.streams.unsent_levels import overhead
from configs.errors import BadImageError
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from extract.accuracy.bootstrap import Accuracy
from tests.support.tiny_study import TinyStudy, extract_tiny, save_detector, with_detector

ANCHORS = {
    "uniform": UniformAnchor(bits=(3, 6)),
    "klt": KltAnchor(relative_steps=(2.0,)),
    "float16": Float16Anchor(),
}


@pytest.fixture(scope="module")
def split(study: TinyStudy) -> Iterator[AnchorSplit]:
    cache = CacheFolder(study.val_cache)
    with open_split(cache, "val", study.config, device="cpu", limit=2, options="") as opened:
        assert opened.evaluator is not None
        detector = opened.evaluator.detector
        yield AnchorSplit(
            train_cache=study.train_cache,
            readers=opened.readers,
            num_images=opened.num_images,
            evaluator=opened.evaluator,
            derivations=derivations(detector, backbone_keys(detector)),
        )


class Rounded:
    """A level's maps through a fitted codec, without a bitstream."""

    def __init__(self, codec: Any, reader: LevelReader, every: int = 1) -> None:
        self.codec, self.reader, self.every = codec, reader, every

    def read(self, index: int) -> Any:
        values = np.array(self.reader.sample(index), dtype=np.float32)
        restored = self.codec.decode(self.codec.encode(values), values.shape[:2])
        return restored.astype(self.reader.dtype)[:: self.every, :: self.every]


def test_rates_are_those_of_the_sent_levels_and_detection_sees_level_4_derived(
    split: AnchorSplit, study: TinyStudy, tmp_path: Path
) -> None:
    found = study_anchors(ANCHORS, split, Kept(None), tmp_path)
    assert found.missing == ()
    assert [(each.anchor, each.point) for each in found.points] == [
        ("uniform", "3 bits"),
        ("uniform", "6 bits"),
        ("klt", "step 2 std"),
        ("float16", "zstd level 9"),
    ]
    costs = overhead(split.manifest, split.num_images)
    beside = costs.shared + costs.derived[4]
    for point in found.points:
        assert list(point.levels) == [0, 1, 2, 3, 4]
        assert point.derived == (4,)
        rates = [point.levels[level].bits_per_pixel for level in range(4)]
        assert point.bits_per_pixel == pytest.approx(sum(rates) + beside)
    coarse, fine, klt, lossless = found.points
    assert coarse.bits_per_pixel < fine.bits_per_pixel < lossless.bits_per_pixel
    assert lossless.ideal_bits_per_pixel is None
    ideal = [klt.levels[level].ideal_bits_per_pixel for level in range(4)]
    assert klt.ideal_bits_per_pixel == pytest.approx(sum(each or 0.0 for each in ideal))
    assert split.evaluator is not None
    assert lossless.accuracy == split.evaluator.accuracy({})
    sources = {}
    for level in range(4):
        with LevelReader(study.train_cache, level) as train:
            (codec,) = ANCHORS["klt"].fit(train, fitting_indices(train))
        sources[level] = Rounded(codec, split.readers[level])
        if level == 3:
            sources[4] = Rounded(codec, split.readers[3], every=2)
    assert klt.accuracy == split.evaluator.accuracy(sources)
    assert list(tmp_path.iterdir()) == []


def test_detection_is_not_run_on_what_is_sent_without_loss(
    split: AnchorSplit, tmp_path: Path
) -> None:
    asked = []

    def as_cached() -> Accuracy:
        asked.append(True)
        assert split.evaluator is not None
        return split.evaluator.accuracy({})

    known = dataclasses.replace(split, as_cached=as_cached)
    found, plain = (
        [point.accuracy for point in study_anchors(ANCHORS, each, Kept(None), tmp_path).points]
        for each in (known, split)
    )
    assert found == plain
    assert asked == [True]  # float16, and no other


def test_second_study_measures_nothing_and_finds_the_same(
    split: AnchorSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path / "kept")
    first = study_anchors(ANCHORS, split, kept, tmp_path)
    measured = []
    real = analyze.anchors.anchor_study.measure_anchor

    def noting(title: str, codec: Any, reader: LevelReader, *rest: Any) -> Any:
        measured.append((title, codec.point, reader.info.index))
        return real(title, codec, reader, *rest)

    monkeypatch.setattr(analyze.anchors.anchor_study, "measure_anchor", noting)
    assert study_anchors(ANCHORS, split, kept, tmp_path) == first
    assert measured == []
    # One more rate point is all that is measured; the others are still known.
    more = study_anchors({"uniform": UniformAnchor(bits=(3, 4, 6))}, split, kept, tmp_path)
    assert {point for _, point, _ in measured} == {"4 bits"}
    assert (more.points[0], more.points[2]) == first.points[:2]
    measured.clear()
    assert split.evaluator is not None
    evaluator = dataclasses.replace(split.evaluator, indices=range(1))
    fewer = dataclasses.replace(split, num_images=1, evaluator=evaluator)
    study_anchors({"klt": ANCHORS["klt"]}, fewer, kept, tmp_path)
    assert len(measured) == 5


def test_without_an_evaluator_there_are_rates_and_no_map(
    split: AnchorSplit, tmp_path: Path
) -> None:
    blind = dataclasses.replace(split, evaluator=None, derivations={})
    (point,) = study_anchors({"klt": ANCHORS["klt"]}, blind, Kept(None), tmp_path).points
    assert point.accuracy is None
    assert point.derived == (4,)
    assert point.bits_per_pixel > 0


class NotInstalled(Float16Anchor):
    def unavailable(self) -> str | None:
        return "float16 + zstd: the package zstandard is missing: pip install zstandard"


def test_anchor_that_is_not_installed_is_a_line_and_the_others_are_there(
    split: AnchorSplit, tmp_path: Path
) -> None:
    anchors = {"float16": NotInstalled(), "klt": ANCHORS["klt"]}
    found = study_anchors(anchors, split, Kept(None), tmp_path)
    assert [each.anchor for each in found.points] == ["klt"]
    assert found.missing == (
        "float16 + zstd: the package zstandard is missing: pip install zstandard",
    )


def test_missing_train_cache_is_a_line(split: AnchorSplit, tmp_path: Path) -> None:
    without = dataclasses.replace(split, train_cache=tmp_path / "train")
    found = study_anchors(ANCHORS, without, Kept(None), tmp_path)
    assert found.points == ()
    (line,) = found.missing
    assert line.startswith("no anchors: ")
    assert "run extract-features --split train" in line


def test_train_cache_of_another_detector_is_a_line(
    split: AnchorSplit, study: TinyStudy, tmp_path: Path
) -> None:
    other = with_detector(study.config, save_detector(tmp_path / "other.pth", seed=1))
    extract_tiny(tmp_path, other, ["train"])
    stale = dataclasses.replace(split, train_cache=tmp_path / "train")
    (line,) = study_anchors(ANCHORS, stale, Kept(None), tmp_path).missing
    assert "is of detector weights" in line
    assert "extract both anew" in line


def test_image_anchors_have_rate_and_map_and_no_levels(split: AnchorSplit, tmp_path: Path) -> None:
    without = dataclasses.replace(split, train_cache=tmp_path / "train")
    anchors = {"klt": ANCHORS["klt"], "image-jpeg": image_jpeg((10,))}
    found = study_anchors(anchors, without, Kept(None), tmp_path)
    # They are not fitted, and need no train cache.
    assert len(found.missing) == 1
    assert [(each.anchor, each.is_image, each.levels) for each in found.points] == [
        ("image-jpeg", True, {}), ("image-jpeg", True, {}),
    ]  # fmt: skip
    assert split.evaluator is not None
    (resized, _) = study_images(anchors["image-jpeg"], split.evaluator, Kept(None))
    samples = split.manifest.samples[: split.num_images]
    pixels = sum(each.height * each.width for each in samples)
    assert found.points[0].bits_per_pixel == 8 * resized.num_bytes / pixels
    assert found.points[0].accuracy == resized.accuracy


def test_images_that_are_gone_or_a_codec_or_detection_are_one_line(
    split: AnchorSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"image-jpeg": image_jpeg((10,)), "image-av1": image_av1((63,))}
    blind = dataclasses.replace(split, evaluator=None, derivations={})
    assert study_anchors(images, blind, Kept(None), tmp_path).missing == (
        "no anchors of images: they need detection",
    )

    def gone(*_: Any) -> None:
        raise BadImageError("a.jpg: no such file", file="a.jpg", reason="no such file")

    monkeypatch.setattr("analyze.image_coding.image_study.read_planned_image", gone)
    monkeypatch.setattr("av.codec.codecs_available", set())
    first, second = (
        study_anchors(each, split, Kept(None), tmp_path)
        for each in (images, dict(reversed(images.items())))
    )
    assert first.points == second.points == ()
    assert first.missing == ("no anchors of images: a.jpg: no such file",)
    assert [line.split(":")[0] for line in second.missing] == [
        "image, AV1", "no anchors of images",
    ]  # fmt: skip
