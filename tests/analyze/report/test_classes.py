"""The report has the AP of each class, and says which classes mAP is of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analyze.facts.results import AnalysisResult, ClassFacts, Combination
from analyze.report.classes import class_section, class_table
from analyze.report.findings import Findings
from analyze.report.page import Paragraph
from analyze.report.sections import ReportOrigin, make_page

RESULT = AnalysisResult(
    dataset="tiny", split="val", detector="d", num_images=3, rows=(), original=None,
    combinations=(
        Combination(
            name="level 0 dropped", parts={}, bits_per_pixel=None, accuracy=None,
            class_ap=(0.25, 0.0),
        ),
        Combination(
            name="all levels", parts={}, bits_per_pixel=0.5, accuracy=None, class_ap=(0.125, 0.0)
        ),
    ),
    classes=(
        ClassFacts(name="cat", num_boxes=4, is_known=True),
        ClassFacts(name="dog", num_boxes=2, is_known=False),
    ),
    class_ap=(0.5, 0.0),
)  # fmt: skip


def test_table_has_a_line_for_each_class_and_the_file_one_for_each_combination_too() -> None:
    table = class_table(RESULT, "all levels")
    assert table.titles == ("class", "boxes", "AP", "AP compressed")
    assert table.cells == (
        ("cat", "4", "0.5000", "0.1250"),
        ("dog (unknown to the detector)", "2", "0.0000", "0.0000"),
    )
    assert table.names == ("features", "class", "boxes", "known", "ap")
    assert table.values[::2] == (
        ("original features", "cat", 4, 1, 0.5),
        ("level 0 dropped", "cat", 4, 1, 0.25),
        ("all levels", "cat", 4, 1, 0.125),
    )
    assert table.values[1] == ("original features", "dog", 2, 0, 0.0)


@pytest.mark.parametrize(("num_classes", "folded"), [(2, False), (80, True)])
def test_section_shows_a_whole_pyramid_and_folds_many_classes(
    num_classes: int, folded: bool
) -> None:
    times = num_classes // 2
    section = class_section(
        Findings(
            result=replace(
                RESULT, classes=RESULT.classes * times, class_ap=RESULT.class_ap * times,
                combinations=(replace(RESULT.combinations[1], class_ap=(0.1, 0.0) * times),),
            )
        )
    )  # fmt: skip
    assert section is not None
    assert section.folded is folded
    assert isinstance(section.blocks[0], Paragraph)
    assert "Compressed: all levels." in section.blocks[0].text


def test_without_detection_or_without_runs_there_is_no_more_than_there_is() -> None:
    assert class_section(Findings(result=replace(RESULT, classes=()))) is None
    assert class_table(replace(RESULT, combinations=()), None).titles == ("class", "boxes", "AP")


def test_page_says_which_classes_alone_are_evaluated() -> None:
    origin = ReportOrigin(created="", command="", facts={})
    whole = make_page(Findings(result=RESULT), origin)
    some = make_page(Findings(result=replace(RESULT, only_classes=("cat", "dog"))), origin)
    assert [section.title for section in whole.sections][:3] == ["Levels", "Detection", "Classes"]
    assert some.summary == f"{whole.summary} mAP is of cat, dog alone."
