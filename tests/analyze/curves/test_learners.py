"""Runs of several models or distortions: told apart in tables, and a curve for each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from analyze.curves.comparison import compare
from analyze.facts.candidates import Candidate, learner_labels
from analyze.facts.results import AnalysisResult, Combination, LevelRow
from analyze.plots.figures import make_plots
from analyze.report.finding_tables import bd_table
from analyze.report.findings import Findings, level_series, map_series
from analyze.report.tables import level_table
from tests.analyze.curves.test_rate_quality import accuracy, anchor_point, row

MODEL = "factorized_prior_specific_level"


def run_of(learner: str) -> Candidate:
    return Candidate(
        folder=Path("run"), level=0, lmbda=0.1, best_validation_loss=1.0, model=learner
    )


def result_of(rows: list[LevelRow], combinations: list[Combination]) -> AnalysisResult:
    return AnalysisResult(
        dataset="tiny", split="val", detector="none", num_images=1, rows=tuple(rows),
        original=None, combinations=tuple(combinations), missing=(),
    )  # fmt: skip


def two_learners() -> AnalysisResult:
    rows, combinations = [], []
    for learner, better in (("mse", 1.0), ("object_weighted", 2.0)):
        for lmbda, rate in ((0.1, 1.0), (0.03, 2.0)):
            rows.append(replace(row(0, lmbda, rate * better), learner=learner))
            combinations.append(
                Combination(
                    name=f"lambda {lmbda}, {learner}", parts={0: "run"}, bits_per_pixel=rate,
                    accuracy=accuracy(0.1 * rate * better), lmbda=lmbda, learner=learner,
                    is_planned=True,
                )
            )  # fmt: skip
    return result_of(rows, combinations)


def test_label_is_as_short_as_the_runs_allow() -> None:
    assert learner_labels([run_of(MODEL)]) == {MODEL: ""}
    weighted = f"{MODEL} object_weighted"
    assert learner_labels([run_of(weighted), run_of(MODEL)]) == {
        MODEL: "mse",
        weighted: "object_weighted",
    }
    assert learner_labels([run_of("scale_hyperprior"), run_of(weighted)]) == {
        "scale_hyperprior": "scale_hyperprior",
        weighted: weighted,
    }
    assert learner_labels([]) == {}


def test_each_has_its_own_curve_and_its_own_deltas_against_each_anchor() -> None:
    points = [anchor_point("KLT", 1, 100, 0.5, False), anchor_point("KLT", 2, 50, 0.2, False)]
    whole, level = compare(two_learners(), points)
    for each in (whole, level):
        assert [curve.name for curve in each.ours] == ["ours, mse", "ours, object_weighted"]
        assert [len(curve.points) for curve in each.ours] == [2, 2]
        assert [curve.name for curve in each.anchors] == ["KLT"]
        assert [(d.anchor, d.test) for d in each.deltas] == [
            ("KLT", "ours, mse"),
            ("KLT", "ours, object_weighted"),
        ]
    titles = [line[0] for line in bd_table([whole]).cells]
    assert titles == ["all levels (ours, mse): KLT", "all levels (ours, object_weighted): KLT"]


def test_plots_have_a_series_for_each() -> None:
    result = two_learners()
    findings = Findings(result=result, comparisons=compare(result, []))
    assert [(each.name, len(each.points)) for each in map_series(findings) if each.points] == [
        ("all levels sent, mse", 2),
        ("all levels sent, object_weighted", 2),
    ]
    ((level, series),) = level_series(findings)
    assert level == 0
    assert [(each.name, each.style) for each in series] == [
        ("ours, mse", "ours"),
        ("ours, object_weighted", "ours"),
    ]


def test_plot_of_rate_and_distortion_has_a_line_for_each() -> None:
    (plot,) = [plot for plot in make_plots(two_learners()) if plot.name == "rate_distortion"]
    for name in (b"level 0, mse", b"level 0, object_weighted"):
        assert name in plot.svg


def test_table_says_by_what_each_run_was_learned_only_if_they_differ() -> None:
    both = level_table(two_learners())
    assert both.titles[:4] == ("level", "lambda", "by", "map HxW")
    assert [line[2] for line in both.cells] == ["mse", "mse", "object_weighted", "object_weighted"]
    alone = level_table(result_of([row(0, 0.1, 1.0)], []))
    assert "by" not in alone.titles
    for table in (both, alone):
        assert table.names.count("learner") == 1
        assert all(len(line) == len(table.names) for line in table.values)
