"""What is printed of an analysis: few lines, and the right figures in them."""

from __future__ import annotations

from dataclasses import replace

from analyze.anchors.anchor_points import AnchorPoint
from analyze.facts.results import AnalysisResult, Combination, LevelFacts, LevelRow
from analyze.report.findings import Findings
from analyze.report.summary import summary
from extract.accuracy.bootstrap import Accuracy


def accuracy(value: float, drop: float | None = None) -> Accuracy:
    return Accuracy(map=value, map_50=0.9, small=0.1, medium=0.2, large=0.3, drop=drop)


def pyramid(lmbda: float, bits: float, value: float, *, derived: bool = False) -> Combination:
    parts = {level: f"run_{level}" for level in range(5)} | ({4: "derived"} if derived else {})
    name = f"all levels, lambda {lmbda:g}" + (", level 4 derived" if derived else "")
    return Combination(
        name=name, parts=parts, bits_per_pixel=bits, accuracy=accuracy(value, 0.7 - value),
        lmbda=lmbda,
        is_planned=True,
    )  # fmt: skip


def anchor(point: str, bits: float, value: float) -> AnchorPoint:
    return AnchorPoint(
        anchor="klt", title="KLT over channels", point=point, levels={}, derived=(4,),
        bits_per_pixel=bits, ideal_bits_per_pixel=None, accuracy=accuracy(value),
    )  # fmt: skip


def findings(*combinations: Combination, anchors: tuple[AnchorPoint, ...] = ()) -> Findings:
    facts = LevelFacts(
        level=0, key="0", stride_px=4, num_channels=256, resolution_hw=(48, 64), share=0.75
    )
    result = AnalysisResult(
        dataset="scenes", split="val", detector="compact (0123)", num_images=32,
        rows=(LevelRow(facts=facts, measurement=None, alone=None),),
        original=accuracy(0.7), combinations=combinations,
    )  # fmt: skip
    return Findings(result=result, anchors=anchors)


def test_pyramids_that_are_sent_whole_stand_below_the_original() -> None:
    lines = summary(
        findings(
            pyramid(0.1, 0.2, 0.6), pyramid(0.1, 0.19, 0.6, derived=True), pyramid(1, 0.1, 0.5)
        )
    ).splitlines()
    assert lines[0] == "scenes val: 32 images, detector compact (0123)"
    assert [line.split() for line in lines[1:]] == [
        ["features", "bits/px", "mAP", "drop"],
        ["original", "features", "-", "0.7000", "-"],
        ["all", "levels,", "lambda", "0.1", "0.2", "0.6000", "0.1000"],
        ["all", "levels,", "lambda", "1", "0.1", "0.5000", "0.2000"],
    ]


def test_the_rival_is_the_cheapest_anchor_that_detects_no_worse() -> None:
    anchors = (anchor("step 1", 9, 0.69), anchor("step 2", 3, 0.61), anchor("step 3", 1, 0.59))
    last = summary(findings(pyramid(0.1, 0.2, 0.6), anchors=anchors)).splitlines()[-1]
    assert "KLT over channels, step 2 (15.0 times the bits)" in last
    assert last.split()[-3:] == ["3", "0.6100", "0.0900"]


def test_no_rival_is_named_where_all_anchors_detect_worse() -> None:
    text = summary(findings(pyramid(0.1, 0.2, 0.6), anchors=(anchor("step 3", 1, 0.59),)))
    assert "anchor" not in text


def test_of_many_lambdas_the_first_the_last_and_some_between_are_shown() -> None:
    text = summary(findings(*(pyramid(n, n / 10, 0.5) for n in range(1, 21))))
    assert len(text.splitlines()) == 10
    assert "lambda 1 " in text
    assert "lambda 20 " in text
    assert "14 more lambdas in the report" in text


def test_levels_that_make_no_pyramid_have_a_line_each() -> None:
    assert "48x64" in summary(findings())


def test_without_boxes_there_are_bits_and_no_figure_of_detection() -> None:
    found = findings(replace(pyramid(0.1, 0.2, 0.6), accuracy=None))
    found = replace(found, result=replace(found.result, original=None))
    assert summary(found).splitlines()[-1].split()[-3:] == ["0.2", "-", "-"]
