"""What is printed of an analysis: few lines, and the right figures in them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analyze.allocation.allocate import AllocationFinding
from analyze.allocation.cross_fit import CrossFit, Fold
from analyze.allocation.lagrangian import Allocated, Option
from analyze.allocation.search import Allocation, Target
from analyze.allocation.weighed_ways import WeighedWays
from analyze.anchors.anchor_points import AnchorPoint
from analyze.curves.bjontegaard import Saving
from analyze.facts.results import AnalysisResult, ChosenBy, Combination, LevelFacts, LevelRow
from analyze.facts.sent_parts import DROPPED
from analyze.image_choice.ways import Ways
from analyze.plots.curve_plots import PlotPoint
from analyze.report.chosen_allocation import allocation_section
from analyze.report.findings import Findings, chosen_point
from analyze.report.page import Paragraph, TableBlock
from analyze.report.sections import ReportOrigin, make_page
from analyze.report.summary import summary
from analyze.report.tables import detection_table
from analyze.streams.ensemble import DroppedLevel, Ensemble
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


def allocated(chosen_by: ChosenBy, bits: float, value: float) -> AllocationFinding:
    chosen = Combination(
        name="allocated for a mAP drop of 0.01", parts={}, bits_per_pixel=bits,
        accuracy=accuracy(value, 0.7 - value), chosen_by=chosen_by,
    )  # fmt: skip
    option = Option(level=0, name="dropped", bits_per_pixel=0.0, mse=1.0, kind="dropped")
    allocation = Allocation(
        target=Target(kind="map_drop", value=0.01), verified_drop=0.0375, met=True, bound=None,
        combination=Allocated(options=(option,), bits_per_pixel=0.0, cost=0.0), tried=(), why="so",
    )  # fmt: skip
    return AllocationFinding(
        allocation=allocation, combination=chosen, ensemble=Ensemble({0: DroppedLevel()}),
        saving=Saving(fraction=None, same_lambda_bits_per_pixel=None, why="not"),
        parts={0: DROPPED}, shared_bits_per_pixel=0.0,
        weighed=WeighedWays(ways=Ways((), "mAP"), runs=()),
    )  # fmt: skip


SAME = ChosenBy(split="val", num_images=32, measured_on="val", num_measured=32)


def with_cross_fit(found: AllocationFinding, bits: float, value: float) -> AllocationFinding:
    fitted = replace(
        found.combination, bits_per_pixel=bits, accuracy=accuracy(value, 0.7 - value),
        name=f"{found.combination.name}, cross-fitted over 5 folds",
        chosen_by=replace(SAME, num_folds=5),
    )  # fmt: skip
    fold = Fold(allocation=found.allocation, images=(1, 2), bits_per_pixel=bits, mse=1.0)
    crossed = CrossFit(folds=(fold,) * 5, combination=fitted, mse=1.0, optimism=0.65 - value)
    return replace(found, cross_fit=crossed)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            allocated(SAME, 0.1, 0.65),
            "the allocation was chosen and measured on the same 32 images, which flatters it: "
            "--cross-fit 5 measures it on images that did not choose",
        ),
        (
            allocated(replace(SAME, split="train", num_images=99), 0.1, 0.65),
            "the allocation was chosen on train (99 images), measured on val (32 images): a mAP "
            "drop of 0.0500, where the images that chose lose 0.0375",
        ),
        (
            with_cross_fit(allocated(SAME, 0.1, 0.65), 0.125, 0.625),
            "the allocation is cross-fitted over 5 folds of 32 images: mAP 0.6250 at 0.125 "
            "bits/px; chosen and measured on the same images it has mAP 0.6500 at 0.1 bits/px, an "
            "optimism of 0.0250",
        ),
    ],
)
def test_summary_section_and_csv_say_which_images_chose_and_which_were_measured(
    found: AllocationFinding, said: str
) -> None:
    chosen = findings(*found.combinations)
    chosen = replace(chosen, allocation=found)
    assert summary(chosen).splitlines()[-1] == said
    section = allocation_section(chosen)
    assert section is not None
    assert section.blocks[0] == Paragraph(text=f"T{said[1:]}.")
    names = [block.name for block in section.blocks if isinstance(block, TableBlock)]
    assert names == ["allocation"] + ["cross_fit"] * (found.cross_fit is not None)
    table = detection_table(chosen.result)
    last = dict(zip(table.names, table.values[-1], strict=True))
    assert last["chosen_by"] == (found.honest.chosen_by or SAME).text


def test_head_of_the_page_says_which_images_chose() -> None:
    chosen = findings()
    chosen = replace(
        chosen,
        allocation=allocated(SAME, 0.0, 0.65),
        result=replace(chosen.result, original=None),
    )
    page = make_page(chosen, ReportOrigin(created="now", command="analyze-levels", facts={}))
    assert "The allocation was chosen and measured on the same 32 images, which" in page.summary


def test_seeds_have_a_line_for_each_lambda_and_one_for_their_allocations() -> None:
    name = "all levels, lambda 0.1"
    seeds = [
        replace(pyramid(0.1, bits, value), name=f"{name}, seed {seed}", seed=seed, over_seeds=name)
        for seed, bits, value in ((0, 0.25, 0.625), (1, 0.75, 0.5))
    ]
    both = [
        replace(found, combination=replace(found.combination, seed=seed, over_seeds="allocated"))
        for seed, found in enumerate((allocated(SAME, 0.125, 0.75), allocated(SAME, 0.375, 0.5)))
    ]
    found = replace(findings(*seeds), allocation=both[0], other_seeds=(both[1],))
    lines = summary(found).splitlines()
    assert lines[3].split("  ")[0] == f"{name}, mean of 2 seeds"
    assert lines[3].split()[-3:] == ["0.5", "0.5625", "0.1375"]
    assert lines[-2].startswith("the allocation of seed 0 was chosen and measured on the same 32")
    assert lines[-1] == (
        "allocated, over the seeds 0, 1, mean and smallest to largest: mAP 0.6250 "
        "(0.5000..0.7500) at 0.25 (0.125..0.375) bits/px"
    )
    assert chosen_point(found) == PlotPoint(x=0.25, y=0.625, low=0.5, high=0.75)


def test_the_rival_is_that_of_the_cross_fitted_map() -> None:
    found = with_cross_fit(allocated(SAME, 0.1, 0.65), 0.125, 0.6)
    anchors = (anchor("step 1", 9, 0.64), anchor("step 2", 3, 0.61))
    text = summary(replace(findings(anchors=anchors), allocation=found))
    assert "step 2 (24.0 times the bits)" in text


def test_levels_that_make_no_pyramid_have_a_line_each() -> None:
    assert "48x64" in summary(findings())


def test_without_boxes_there_are_bits_and_no_figure_of_detection() -> None:
    found = findings(replace(pyramid(0.1, 0.2, 0.6), accuracy=None))
    found = replace(found, result=replace(found.result, original=None))
    assert summary(found).splitlines()[-1].split()[-3:] == ["0.2", "-", "-"]
