"""Runs beside each of several coarser ones: candidates of their own, told apart, put together."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from analyze.allocation.choice import Evidence, choose, option_names
from analyze.allocation.search import Target
from analyze.facts.candidates import (
    Candidate,
    learner,
    newest_runs,
    plan_of,
    predicted_ways,
    runs_by_seed,
    seeds_of,
)
from analyze.facts.contextual_runs import beside_each, beside_labels
from analyze.facts.sent_parts import Part, RunCost
from analyze.facts.whole_pyramids import pyramids
from analyze.measure.find_runs import left_out_lines
from analyze.streams.unsent_levels import Overhead
from configs.config_files import check_config


def run(level: int, lmbda: float, name: str = "", seed: int = 0) -> Candidate:
    folder = f"level_{level}/run_1_{lmbda:g}_{seed}{name}"
    return Candidate(
        folder=Path(folder), level=level, lmbda=lmbda, best_validation_loss=1.0, seed=seed,
        model="m" if level == 2 else "m coarse to fine",
        model_sha256=hashlib.sha256(folder.encode()).hexdigest(),
    )  # fmt: skip


COARSE = [run(2, 0.1), run(2, 0.3)]
MIDDLE = beside_each(run(1, 0.1), COARSE)
FINE = beside_each(run(0, 0.1), MIDDLE)


def test_run_beside_several_is_a_candidate_beside_each_of_one_model() -> None:
    assert len({each.folder for each in (*MIDDLE, *FINE)}) == 4
    assert {each.model_folder for each in FINE} == {run(0, 0.1).folder}
    assert {each.model_folder for way in FINE for each in predicted_ways(way)} == {
        run(0, 0.1).folder
    }
    assert len({Part(kind="run", run=each).identity for each in FINE}) == 2
    (alone,) = beside_each(run(1, 0.1), COARSE[:1])
    assert alone.folder == run(1, 0.1).folder


def test_labels_say_as_much_of_the_chain_as_tells_runs_apart() -> None:
    labels = beside_labels([*COARSE, *MIDDLE, *FINE])
    assert [labels[each.folder] for each in (*COARSE, *MIDDLE)] == [
        "", "", "beside lambda 0.1", "beside lambda 0.3",
    ]  # fmt: skip
    assert [labels[each.folder] for each in FINE] == [
        "beside lambda 0.1 beside lambda 0.1", "beside lambda 0.1 beside lambda 0.3",
    ]  # fmt: skip
    # Another run of the level says the same of itself, so that it is of one curve with these.
    other = replace(run(1, 0.3), context=COARSE[1])
    assert beside_labels([*MIDDLE, other])[other.folder] == "beside lambda 0.3"
    assert set(beside_labels([*COARSE, MIDDLE[0], other]).values()) == {""}
    seeds = beside_each(run(1, 0.1), [run(2, 0.1), run(2, 0.1, seed=1)])
    assert [*beside_labels(seeds).values()] == [
        "beside lambda 0.1, seed 0", "beside lambda 0.1, seed 1",
    ]  # fmt: skip
    names = option_names([*COARSE, *MIDDLE])
    assert names[MIDDLE[1].folder] == "lambda 0.1, coarse to fine, beside lambda 0.3"


def test_two_runs_beside_different_ones_are_both_kept_and_no_two_seeds() -> None:
    first, second = (
        replace(run(1, 0.1, name), context=context)
        for name, context in zip("ab", COARSE, strict=True)
    )
    runs = newest_runs([*COARSE, first, second])
    assert first in runs and second in runs
    assert list(runs_by_seed([*runs, *MIDDLE])) == [None]
    assert left_out_lines([first, second], runs) == ()
    newer = replace(first, folder=Path("level_1/run_2"))
    assert newest_runs([*COARSE, first, newer]) == [*COARSE, newer]
    (line,) = left_out_lines([first, newer], [newer])
    assert line.startswith(f"{first.folder} is left out: {newer.folder} is of the same")


def test_run_beside_one_that_is_trained_anew_gives_way_to_one_that_can_be_sent() -> None:
    old = replace(COARSE[0], folder=Path("level_2/run_0"))
    beside_old = replace(run(1, 0.1, "z"), context=old)  # the newest, but of no pyramid
    beside_new = replace(run(1, 0.1, "a"), context=COARSE[0])
    assert newest_runs([old, *COARSE, beside_new, beside_old]) == [*COARSE, beside_new]
    ways = beside_each(run(1, 0.3), [old, COARSE[1]])
    assert newest_runs([old, *COARSE, *ways]) == [*COARSE, ways[1]]
    assert newest_runs([old, *COARSE, ways[0]]) == [*COARSE, ways[0]]


def test_runs_of_several_seeds_beside_several_lambdas_are_of_one_seed_each() -> None:
    coarse = {seed: [run(2, lmbda, seed=seed) for lmbda in (0.1, 0.3)] for seed in (0, 1)}
    fine = {seed: beside_each(run(1, 0.1, seed=seed), coarse[seed]) for seed in (0, 1)}
    runs = [each for of_seed in (coarse, fine) for those in of_seed.values() for each in those]
    by_seed = runs_by_seed(runs)
    assert {seed: len(those) for seed, those in by_seed.items()} == {0: 4, 1: 4}
    assert seeds_of(runs)[fine[1][1].folder] == 1
    labels = beside_labels(runs)
    assert [labels[each.folder] for each in (*fine[0], *fine[1])] == [
        "beside lambda 0.1", "beside lambda 0.3",
    ] * 2  # fmt: skip


def test_pyramid_of_one_lambda_takes_the_context_of_the_same_lambda() -> None:
    for middle in (MIDDLE, MIDDLE[::-1]):
        fine = beside_each(run(0, 0.1), middle)
        (found,) = pyramids([*COARSE, *middle, *fine], [0, 1, 2])
        assert [each.lmbda for each in found.runs.values()] == [0.1, 0.1, 0.1]
    other = replace(run(1, 0.3), context=COARSE[0])
    found_lambdas = {
        each.name: [run.lmbda for run in each.runs.values()]
        for each in pyramids([*COARSE, *MIDDLE, other], [1, 2])
    }
    assert found_lambdas == {
        "all levels, lambda 0.1, coarse to fine": [0.1, 0.1],
        "all levels, lambda 0.3, coarse to fine": [0.3, 0.1],
    }


def test_planned_pyramid_takes_the_contexts_that_its_configuration_has() -> None:
    levels = {level: {"training": {"lambda": lmbda}} for level, lmbda in ((0, 0.1), (1, 0.3))}
    config = check_config({"levels": levels}, "test")
    plan = plan_of(config, [0, 1])
    coarse = [replace(each, level=1, model=learner(config)) for each in COARSE]
    fine = beside_each(replace(run(0, 0.1), model=learner(config)), coarse)
    found = {each.name: each.runs for each in pyramids([*coarse, *fine], [0, 1], (), plan)}
    assert found["all levels, lambda 0.1, 0.3"] == {0: fine[1], 1: coarse[1]}


def test_codec_for_several_contexts_is_a_learner_beside_the_matched_one() -> None:
    context = {"num_channels": 8, "stride": 2, "trail_channels": 12, "trail_stride": 8}

    def trained_beside(*runs: str) -> str:
        settings = {"model": {"context": context}, "training": {"context": list(runs)}}
        return learner(check_config(settings, "test"))

    assert trained_beside("a", "b").endswith(" coarse to fine for 2 contexts")
    assert trained_beside("a").endswith(" coarse to fine")


def test_allocation_chooses_a_run_beside_the_very_one_that_it_was_measured_beside() -> None:
    costs = {COARSE[0]: (0.5, 1.0), COARSE[1]: (0.2, 2.0), MIDDLE[0]: (0.1, 1.0),
             MIDDLE[1]: (0.3, 1.5)}  # fmt: skip
    evidence = Evidence(
        sources={1: None, 2: None},
        runs=tuple(
            RunCost(run=each, bits_per_pixel=bits, mse=mse) for each, (bits, mse) in costs.items()
        ),
        overhead=Overhead(shared=0.0, derived={}, dropped={1: 0.0, 2: 0.0}),
        shares={1: 0.5, 2: 0.5},
        dropped_mse={1: 100.0, 2: 100.0},
        drop=None,
    )
    for budget, coarse, fine in ((0.65, COARSE[0], MIDDLE[0]), (0.55, COARSE[1], MIDDLE[1])):
        found = choose(evidence, Target(kind="bpp", value=budget)).combination
        assert found.runs == {1: str(fine.folder), 2: str(coarse.folder)}
