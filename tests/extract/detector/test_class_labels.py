"""Labels mean what names and weights say together; what contradicts itself is told, not shifted."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import get_model_builder

from configs.errors import ConfigError
from configs.schema.data import DetectorConfig
from extract.detector.builders import fasterrcnn_mobilenet_v2_fpn
from extract.detector.class_labels import (
    ClassHead,
    head_of,
    match_labels,
    read_names,
    unknown_classes,
)
from extract.detector.loading import load_detector

CATEGORIES = {7: "Dog", 3: "cat"}
BY_NAME = {1: 3, 2: 7}


def rcnn(num_classes: int) -> ClassHead:
    return ClassHead(num_outputs=num_classes + 1, has_background=True)


def dense(num_outputs: int) -> ClassHead:
    return ClassHead(num_outputs=num_outputs, has_background=False)


def test_labels_are_matched_by_name_then_by_count_then_taken_as_ids() -> None:
    assert match_labels(("cat", "dog"), rcnn(2), CATEGORIES).category_of == BY_NAME
    assert match_labels(("dog", "cat"), rcnn(2), CATEGORIES).category_of == {1: 7, 2: 3}
    assert match_labels(None, rcnn(2), CATEGORIES).category_of == BY_NAME
    guess = match_labels(None, rcnn(90), CATEGORIES)
    assert guess.category_of == {3: 3, 7: 7}
    assert guess.is_guess
    with pytest.raises(ConfigError, match=r"classes \(a, b\) match none of .* 2 categories \(Dog"):
        match_labels(("a", "b"), rcnn(2), CATEGORIES)


@pytest.mark.parametrize(
    ("classes", "head"),
    [
        (("__background__", "cat", "dog"), rcnn(2)),
        (("Background", "cat", "dog"), rcnn(2)),
        (("cat", "dog", "bg"), rcnn(2)),
        (("__background__", "cat", "dog"), dense(3)),
        (("cat", "dog"), dense(3)),
    ],
)
def test_a_name_for_the_background_shifts_no_label(
    classes: tuple[str, ...], head: ClassHead
) -> None:
    assert match_labels(classes, head, CATEGORIES).category_of == BY_NAME


@pytest.mark.parametrize("classes", [("cat", "dog"), None])
def test_dense_head_without_an_unused_output_counts_from_zero(
    classes: tuple[str, ...] | None,
) -> None:
    assert match_labels(classes, dense(2), CATEGORIES).category_of == {0: 3, 1: 7}


@pytest.mark.parametrize(
    ("classes", "head", "told"),
    [
        (("cat",), rcnn(2), "`classes` names 1 (cat), the weights tell the background and 2"),
        (
            ("a", "cat", "dog"),
            rcnn(2),
            "`classes` names 3 (a, cat, dog), the weights tell the back",
        ),
        (
            ("__background__", "cat"),
            rcnn(2),
            "`classes` names 2 (__background__, cat), the weights",
        ),
        (
            ("cat", "dog"),
            rcnn(90),
            "`classes` names 2 (cat, dog), the weights tell the background a",
        ),
        (("cat", "dog"), dense(91), "`classes` names 2 (cat, dog), the weights tell 91 classes"),
    ],
)
def test_names_that_the_head_contradicts_are_refused(
    classes: tuple[str, ...], head: ClassHead, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        match_labels(classes, head, CATEGORIES)
    assert str(caught.value).startswith(told)
    assert str(caught.value).endswith("save one name for each label in the file, or none")


def test_names_in_other_case_spaces_and_hyphens_are_the_same_unless_two_would_be() -> None:
    categories = {1: "traffic light", 2: "Hot-Dog", 3: "car", 4: "Car"}
    classes = ("Traffic_Light", " hot  dog", "Car", "CAR")
    assert match_labels(classes, rcnn(4), categories).category_of == {1: 1, 2: 2, 3: 4}


def test_coco_ids_with_holes_are_matched_by_name_and_without_names_as_numbers() -> None:
    categories = {1: "person", 13: "stop sign", 90: "toothbrush"}
    names = ["N/A"] * 90
    for category, name in categories.items():
        names[category - 1] = name
    same = {category: category for category in categories}
    for head in (rcnn(90), dense(91)):
        assert match_labels(names, head, categories).category_of == same
        assert match_labels(None, head, categories).category_of == same
    assert match_labels(None, rcnn(3), categories).category_of == {1: 1, 2: 13, 3: 90}


def test_category_zero_is_no_label_of_a_head_with_a_background() -> None:
    categories = {0: "cat", 1: "dog"}
    assert match_labels(None, rcnn(2), categories).category_of == {1: 0, 2: 1}
    assert match_labels(None, dense(2), categories).category_of == {0: 0, 1: 1}
    with pytest.raises(ConfigError, match="match none of the data set's 2 categories"):
        match_labels(None, rcnn(5), categories)


def test_how_labels_were_matched_is_told_pair_by_pair() -> None:
    match = match_labels(("cat", "emu", "dog"), rcnn(3), CATEGORIES)
    assert match.how == (
        "labels were matched to categories by name: 1 cat is cat (3), 3 dog is Dog (7)"
    )
    assert match_labels(None, rcnn(2), CATEGORIES).how == (
        "labels were matched to categories by their order, as the detector names none: "
        "1 is cat (3), 2 is Dog (7)"
    )


def test_classes_without_a_label_are_named_with_their_boxes() -> None:
    categories = {1: "cat", 2: "dog", 3: "emu"}
    assert unknown_classes({5: 1}, categories, {1: 4, 2: 6, 3: 0}) == "dog (6 boxes)"
    assert unknown_classes({5: 1, 6: 2}, categories, {1: 4, 2: 6, 3: 0}) == ""


@pytest.mark.parametrize(
    ("builder", "head"),
    [
        ("fasterrcnn_mobilenet_v3_large_fpn", rcnn(3)),
        ("retinanet_resnet50_fpn", dense(4)),
        ("fcos_resnet50_fpn", dense(4)),
    ],
)
def test_head_of_every_family_is_read_off_its_weights(builder: str, head: ClassHead) -> None:
    with torch.device("meta"):
        model = get_model_builder(builder)(weights=None, weights_backbone=None, num_classes=4)
    assert head_of(model) == head


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (["a", "b"], ("a", "b")),
        (("a", 2), ("a", "2")),
        ({1: "b", 0: "a"}, ("a", "b")),
        (np.array(["a", "b"]), ("a", "b")),
        (91, None),
        (torch.tensor(91), None),
        (None, None),
        ([], None),
    ],
)
def test_names_are_read_as_lists_and_by_label(
    classes: object, names: tuple[str, ...] | None
) -> None:
    assert read_names(classes) == names


@pytest.mark.parametrize("classes", ["cat", {"cat": 1}, [["cat"]]])
def test_names_that_are_no_list_are_refused(classes: object) -> None:
    with pytest.raises(ConfigError, match="and no list of names: save a list, or leave them out"):
        read_names(classes)


def test_detector_whose_names_its_weights_contradict_is_loaded_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, state = tmp_path / "own.pth", fasterrcnn_mobilenet_v2_fpn(num_classes=3).state_dict()
    config = DetectorConfig(builder="fasterrcnn_mobilenet_v2_fpn", checkpoint=str(path))
    for classes, num_warnings in ((["__background__", "a", "b"], 0), (["a"], 1)):
        torch.save({"model": state, "classes": classes}, path)
        with caplog.at_level(logging.WARNING):
            assert load_detector(config).classes == tuple(classes)
        assert len(caplog.records) == num_warnings
    assert caplog.messages[0].startswith(f"{path}: `classes` names 1 (a), the weights tell the")
