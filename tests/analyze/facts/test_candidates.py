"""Runs of one's own codec: its options tell learners apart, its code tells kept results apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analyze.facts.candidates import (
    Candidate,
    codec_code,
    learner,
    learner_labels,
    newest_runs,
    plan_of,
    runs_by_seed,
    seeds_of,
)
from analyze.facts.sent_parts import Part
from analyze.facts.whole_pyramids import pyramids, pyramids_of_seeds
from configs.config_files import check_config
from configs.schema.config import Config


def with_options(distortion: str = "mse", **options: Any) -> Config:
    model = {"name": "own_kept_codecs:Smoothed", "options": options}
    return check_config({"model": model, "training": {"distortion": distortion}}, "test")


def candidate(config: Config, folder: str = "run", **settings: Any) -> Candidate:
    return Candidate(
        folder=Path(folder), level=2, lmbda=0.1, best_validation_loss=1.0, model=learner(config),
        **settings,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "own_kept_codecs:Smoothed"),
        ({"kernel": 5}, "own_kept_codecs:Smoothed(kernel=5)"),
        ({"b": {"y": 1, "x": [2, 3]}, "a": True}, '(a=true,b={"x":[2,3],"y":1})'),
        ({"mode": "a b"}, r'(mode="a\u0020b")'),
    ],
)
def test_learner_names_the_options_in_one_order_and_without_a_space(
    options: dict[str, Any], expected: str
) -> None:
    assert learner(with_options(**options)).endswith(expected)
    assert learner(with_options(**dict(reversed(options.items())))).endswith(expected)


def test_variants_of_one_codec_are_both_kept_and_told_apart() -> None:
    small, large = with_options(kernel=3), with_options(kernel=5)
    runs = [candidate(small, "run_1"), candidate(large, "run_2"), candidate(large, "run_3")]
    assert [str(run.folder) for run in newest_runs(runs)] == ["run_1", "run_3"]
    assert list(learner_labels(runs).values()) == [
        "own_kept_codecs:Smoothed(kernel=3)",
        "own_kept_codecs:Smoothed(kernel=5)",
    ]
    weighted = with_options("object_weighted", mode="a b")
    labels = learner_labels([candidate(weighted), candidate(with_options(mode="a b"))])
    assert sorted(labels.values()) == ["mse", "object_weighted"]


def test_code_of_ones_own_codec_is_its_class_its_options_and_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own_kept_codecs.py"
    file.write_text("class Smoothed: ...\n")
    configs = [with_options(kernel=kernel) for kernel in (3, 5)]
    codes = [codec_code(config.model) for config in configs]
    file.write_text("class Smoothed: ...  # mended\n")
    codes += [codec_code(config.model) for config in configs]
    assert len(set(codes)) == 4
    parts = [
        Part(kind="run", run=candidate(configs[0], model_sha256="0" * 64, code=code))
        for code in codes
    ]
    assert len({part.identity for part in parts}) == 4


def test_what_is_kept_of_our_codecs_stays_under_their_weights_alone() -> None:
    config = check_config({}, "test")
    assert codec_code(config.model) == ""
    run = candidate(config, model_sha256="0" * 64)
    assert Part(kind="run", run=run).identity == f"run {'0' * 64}"


WEIGHTED = {"distortion": "object_weighted"}


def runs_of(
    levels: dict[int, Any], numbers: range = range(3), loss: float = 1.0
) -> list[Candidate]:
    """The runs that train-level makes of one configuration of three levels."""
    config = check_config({"levels": levels}, "test")
    own = {level: config.of_level(level, range(3)) for level in numbers}
    return [
        Candidate(
            folder=Path(f"run_{level}_{loss}"), level=level, lmbda=each.training.lmbda,
            best_validation_loss=loss, model=learner(each), plan=plan_of(each),
        )
        for level, each in own.items()
    ]  # fmt: skip


def test_levels_of_one_configuration_are_one_learner_and_one_pyramid() -> None:
    """Whatever their lambdas, stages, models and distortions are."""
    for own in ({"lambda": 0.5}, {"lambda": 0.5, **WEIGHTED}, WEIGHTED):
        runs = runs_of({0: {"training": own, "model": {"stages": 2}}})
        (pyramid,) = pyramids(runs, range(3))
        assert pyramid.runs == {run.level: run for run in runs}
        assert pyramid.is_planned
        labels = learner_labels(runs)
        assert [labels[run.model] for run in runs] == ["", "", ""]
        assert labels[pyramid.model or "missing"] == ""
    mixed_models = runs_of({1: {"model": {"name": "scale_hyperprior"}}})
    assert set(learner_labels(mixed_models).values()) == {""}
    assert pyramids(mixed_models, range(3))[0].lmbda == 0.001


def test_a_planned_pyramid_is_named_by_the_lambdas_of_its_levels() -> None:
    (pyramid,) = pyramids(runs_of({0: {"training": {"lambda": 0.5}}}), range(3))
    assert (pyramid.name, pyramid.lmbda) == ("all levels, lambda 0.5, 0.001, 0.001", None)


def test_two_configurations_make_two_points_and_share_the_runs_that_they_have_in_common() -> None:
    low = runs_of({0: {"training": {"lambda": 0.5}}})
    # Of the second only level 0 was trained: the study found the others finished.
    high = runs_of({0: {"training": {"lambda": 0.1}}}, range(1), loss=2.0)
    found = pyramids([*low, *high], range(3))
    assert [each.name for each in found] == [
        "all levels, lambda 0.5, 0.001, 0.001",
        "all levels, lambda 0.1, 0.001, 0.001",
    ]
    assert found[1].runs == {0: high[0], 1: low[1], 2: low[2]}
    assert {each.model for each in found} == {"factorized_prior_specific_level"}


def test_a_mixture_beside_one_model_for_all_says_which_level_has_which() -> None:
    plain = runs_of({})
    mixed = runs_of({0: {"training": WEIGHTED}}, range(1))
    found = pyramids([*plain, *mixed], range(3))
    labels = learner_labels([*plain, *mixed])
    assert [labels[each.model or ""] for each in found] == [
        "mse",
        "object_weighted at 0, mse at 1 and 2",
    ]
    assert [labels[run.model] for run in (plain[0], mixed[0])] == ["mse", "object_weighted"]


def test_the_configuration_of_the_analysis_plans_a_pyramid_of_runs_that_there_are() -> None:
    first, second = (
        runs_of({}),
        runs_of({level: {"training": {"lambda": 0.5}} for level in range(3)}),
    )
    plan = plan_of(check_config({"levels": {0: {"training": {"lambda": 0.5}}}}, "test"), range(3))
    (*_, planned) = pyramids([*first, *second], range(3), (), plan)
    assert planned.runs == {0: second[0], 1: first[1], 2: first[2]}
    assert plan_of(check_config({}, "test"), range(3)) == ()


def of_seed(level: int, seed: int, lmbda: float = 0.1) -> Candidate:
    return Candidate(
        folder=Path(f"level_{level}/run_{seed}_{lmbda:g}"), level=level, lmbda=lmbda, seed=seed,
        best_validation_loss=1.0,
    )  # fmt: skip


def test_runs_of_other_seeds_are_kept_and_each_combination_is_of_one_seed() -> None:
    runs = newest_runs([of_seed(level, seed) for level in (0, 1) for seed in (0, 4)])
    assert len(runs) == 4
    assert set(seeds_of(runs).values()) == {0, 4}
    found = pyramids_of_seeds(runs, (0, 1))
    assert [(each.name, each.seed) for each in found] == [
        ("all levels, lambda 0.1, seed 0", 0), ("all levels, lambda 0.1, seed 4", 4),
    ]  # fmt: skip
    for each in found:
        assert {run.seed for run in each.runs.values()} == {each.seed}


def test_run_of_one_seed_alone_goes_with_those_of_every_seed() -> None:
    alone, other = of_seed(1, 9), of_seed(1, 9, lmbda=0.2)
    runs = [of_seed(0, 0), of_seed(0, 1), alone, other, of_seed(0, 0, lmbda=0.2)]
    by_seed = runs_by_seed(runs)
    assert list(by_seed) == [0, 1]
    assert all(alone in each and other in each for each in by_seed.values())
    assert seeds_of(runs)[alone.folder] is None
    # Lambda 0.2 has no run that another seed has, too: it is there once.
    assert [each.name for each in pyramids_of_seeds(runs, (0, 1))] == [
        "all levels, lambda 0.1, seed 0", "all levels, lambda 0.1, seed 1",
        "all levels, lambda 0.2",
    ]  # fmt: skip


def test_runs_whose_seeds_differ_from_level_to_level_are_as_ever() -> None:
    runs = [of_seed(0, 3), of_seed(1, 5)]
    assert runs_by_seed(runs) == {None: runs}
    assert pyramids_of_seeds(runs, (0, 1)) == pyramids(runs, (0, 1))


def test_pyramid_of_contextual_runs_is_the_finest_one_with_its_chain() -> None:
    alone = candidate(with_options(), "alone")
    other = replace(alone, folder=Path("other"), lmbda=0.2)
    beside = {"model": "m coarse to fine", "level": 1, "context": alone}
    middle = replace(alone, folder=Path("middle"), **beside)
    finest = replace(middle, folder=Path("finest"), level=0, context=middle)
    (found,) = pyramids([alone, other, middle, finest], [0, 1, 2])
    assert found.runs == {0: finest, 1: middle, 2: alone}
    assert found.lmbda == 0.1
    # Of a chain that is not whole, no other run takes a place.
    assert pyramids([other, middle, finest], [0, 1, 2]) == []
    mixed = replace(middle, context=other)
    (found,) = pyramids([other, mixed, replace(finest, context=mixed)], [0, 1, 2])
    assert found.lmbda is None


def test_runs_that_see_the_coarser_level_are_another_learner() -> None:
    context = {"num_channels": 8, "stride": 2, "trail_channels": 12, "trail_stride": 8}
    assert learner(check_config({"model": {"context": context}}, "test")).endswith(
        " coarse to fine"
    )
