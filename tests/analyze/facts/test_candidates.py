"""Runs of one's own codec: its options tell learners apart, its code tells kept results apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analyze.facts.candidates import (
    Candidate,
    codec_code,
    learner,
    learner_labels,
    newest_runs,
)
from analyze.facts.sent_parts import Part
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
