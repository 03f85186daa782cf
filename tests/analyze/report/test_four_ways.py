"""The table of the four ways: a column each, and what to train for those that have no runs."""

from __future__ import annotations

from dataclasses import replace

from analyze.curves.approach_figures import approach_figures
from analyze.facts.approaches import RANDOM_LEVEL, SPECIFIC
from analyze.facts.candidates import COARSE_TO_FINE
from analyze.measure.approach_cost import ApproachCost
from analyze.report.findings import Findings, map_series
from analyze.report.four_ways import ways_section
from analyze.report.page import Lines, TableBlock
from analyze.report.rivals import equal_map_table, sent_whole
from analyze.report.summary import summary
from tests.analyze.curves.test_approach_figures import WAYS, result_of
from tests.analyze.report.test_summary import SAME, allocated

COST = ApproachCost(
    models=4, parameters=4_000_000, weight_bytes=16_000_000, decoded_bytes=2_500_000,
    encoder_macs_per_image=3e9, decoder_macs_per_image=1e9, training_seconds=5400.0,
)  # fmt: skip


def found() -> Findings:
    result = result_of(*WAYS)
    return Findings(
        result=result, approaches=approach_figures(result), approach_costs={COARSE_TO_FINE: COST}
    )


def test_each_way_has_a_column_and_one_without_runs_says_what_to_train() -> None:
    section = ways_section(found())
    assert section is not None
    _, block, lines = section.blocks
    assert isinstance(block, TableBlock) and isinstance(lines, Lines)
    assert block.table.titles == ("", SPECIFIC, RANDOM_LEVEL, "fused", COARSE_TO_FINE)
    cells = {line[0]: line[1:] for line in block.table.cells}
    assert cells["bits/px at mAP 0.5500"] == ("0.2828", "0.8", "-", "0.1")
    assert cells["loss at lambda 0.1"] == ("2.4", "3.8", "-", "1.7")
    assert cells["MB decoded"] == ("-", "-", "-", "2.5")
    assert cells["enc GMAC/image"][-1] == "3" and cells["hours of training"][-1] == "1.50"
    values = {line[0]: line[1:] for line in block.table.values}
    assert values["weight_bytes"] == (None, None, None, 16_000_000)
    assert block.table.names[1:] == ("level_specific", "random_level", "fused", "coarse_to_fine")
    assert "fused: no run makes a whole pyramid: train-level --level fused" in lines.lines
    assert ways_section(Findings(result=result_of())) is None


def test_first_table_has_the_other_ways_beside_ours() -> None:
    chosen = allocated(SAME, 0.15, 0.58)
    chosen = replace(chosen, combination=replace(chosen.combination, approach=COARSE_TO_FINE))
    table = equal_map_table(replace(found(), allocation=chosen))
    assert table is not None
    assert [line[:3] for line in table.values] == [
        ("ours, coarse to fine", "allocated for a mAP drop of 0.01", 0.15),
        (COARSE_TO_FINE, f"{WAYS[3].name}", 0.2),
        (SPECIFIC, f"{WAYS[0].name}", 0.4),
        (RANDOM_LEVEL, f"{WAYS[2].name}, its best, is below", 0.8),
    ]
    text = summary(replace(found(), allocation=chosen))
    assert f"cheapest other way of that mAP: {SPECIFIC}, {WAYS[0].name} (2.7 times" in text


def test_without_an_allocation_ours_is_the_best_pyramid_and_its_way_no_rival() -> None:
    whole = [replace(each, parts=dict.fromkeys(range(5), "run")) for each in WAYS]
    table = equal_map_table(Findings(result=result_of(*whole)))
    assert table is not None
    assert [line[0] for line in table.values] == [
        "ours, coarse to fine", SPECIFIC, RANDOM_LEVEL,
    ]  # fmt: skip
    assert equal_map_table(Findings(result=result_of(*whole[:2]))) is None


def test_pyramids_with_derived_levels_are_ours_where_no_others_are() -> None:
    whole = replace(WAYS[2], parts=dict.fromkeys(range(5), "run"))
    assert sent_whole(result_of(*WAYS[3:], whole)) == [*WAYS[3:]]
    assert sent_whole(result_of(whole)) == [whole]


def test_curves_of_whole_pyramids_are_named_by_their_ways() -> None:
    names = [each.name for each in map_series(found()) if each.points]
    assert names == [f"coarsest derived, {way}" for way in (SPECIFIC, RANDOM_LEVEL, COARSE_TO_FINE)]
    plain = [replace(each, learner="") for each in WAYS[:2]]
    first, second = map_series(Findings(result=result_of(*plain)))
    assert (first.name, second.name) == ("all levels sent", "coarsest derived")
