"""Settings of single levels: built in < common < the level's own < command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from configs.config_files import check_config, dump_config, load_config
from configs.errors import ConfigError
from configs.schema.config import Config

LEVELS = """\
training: {epochs: 7, lr_schedule: {patience: 2}}
levels:
  0: {training: {lambda: 0.03, lr_schedule: {factor: 0.25}}, model: {stages: 3}}
  2: {validation: {interval: 5}}
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(LEVELS)
    return str(path)


def test_a_level_has_its_own_settings_over_the_common_ones_over_the_built_in(mine: str) -> None:
    config = load_config(mine)
    first, second, third = (config.of_level(level, range(3)) for level in range(3))
    assert (first.training.lmbda, first.model.stages, first.training.epochs) == (0.03, 3, 7)
    schedule = first.training.lr_schedule
    assert (schedule.factor, schedule.patience, schedule.name) == (0.25, 2, "plateau")
    for other in (second, third):
        assert other.training == config.training
        assert other.model == config.model
    assert [each.validation.interval for each in (first, second, third)] == [1, 1, 5]


@pytest.mark.parametrize("overrides", [
    ("training.lambda=0.5", "training.lr_schedule.factor=0.75"),
    ("training.lambda=0.5", "training.lr_schedule={factor: 0.75}"),
])  # fmt: skip
def test_the_command_line_counts_for_all_levels(mine: str, overrides: tuple[str, ...]) -> None:
    config = load_config(mine, overrides)
    for level in range(3):
        training = config.of_level(level, range(3)).training
        assert (training.lmbda, training.lr_schedule.factor, training.epochs) == (0.5, 0.75, 7)
    assert config.of_level(0, range(3)).model.stages == 3


def test_the_command_line_counts_for_one_level_whatever_the_order(mine: str) -> None:
    config = load_config(mine, ("levels.1.training.lambda=0.2", "training.lambda=0.5"))
    assert [config.of_level(level, range(3)).training.lmbda for level in range(3)] == [
        0.5,
        0.2,
        0.5,
    ]


def test_a_recipe_over_it_is_common_and_does_not_replace_what_levels_have(mine: str) -> None:
    config = load_config(f"{mine},fast")
    assert config.of_level(1, range(3)).training.learning_rate == 1e-3
    assert config.of_level(0, range(3)).training.lmbda == 0.03


def test_settings_of_a_level_tell_those_of_the_others_too(mine: str) -> None:
    config = load_config(mine)
    of_first = config.of_level(0, range(3))
    kept = check_config(load_yaml(dump_config(of_first)), "run")
    assert kept == of_first
    for level in range(3):
        assert kept.of_level(level, range(3)) == config.of_level(level, range(3))
    assert kept.levels[1].given()["training"]["lambda"] == 0.001


def test_without_levels_of_its_own_a_configuration_is_its_own_and_dumped_as_before() -> None:
    assert Config().of_level(3, range(5)) == Config()
    assert "levels" not in load_yaml(dump_config(Config()))


def test_options_go_with_the_name_of_the_codec_that_has_them() -> None:
    own = {"name": "own_codecs:Wide", "options": {"kernel": 5, "groups": 2}}
    levels = {
        "0": {"model": {"options": {"kernel": 3}}},
        1: {"model": {"name": "scale_hyperprior"}},
    }
    config = check_config({"model": own, "levels": levels}, "mine")
    models = [config.of_level(level, range(3)).model for level in range(3)]
    assert [(each.name, each.options) for each in models] == [
        ("own_codecs:Wide", {"kernel": 3}),
        ("scale_hyperprior", {}),
        ("own_codecs:Wide", {"kernel": 5, "groups": 2}),
    ]
    again = config.of_level(1, range(3))
    assert again.of_level(2, range(3)).model == models[2]


def load_yaml(text: str) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(text)
    return content


def test_dtype_is_of_all_splits_or_of_each_named_one_and_a_split_that_is_none_is_refused() -> None:
    every = check_config({"cache": {"dtype": "float32"}}, "here").cache
    assert every.dtype_of("train") == every.dtype_of("val") == "float32"
    assert every.names_dtype_of("train")
    train = check_config({"cache": {"dtype": {"train": "uint8"}}}, "here").cache
    assert (train.dtype_of("train"), train.dtype_of("val")) == ("uint8", "float16")
    assert train.names_dtype_of("train") and not train.names_dtype_of("val")
    assert not check_config({}, "here").cache.names_dtype_of("train")
    with pytest.raises(ConfigError, match=r"data\.splits has train, val, test, no 'trian'"):
        check_config({"cache": {"dtype": {"trian": "uint8"}}}, "here")
    with pytest.raises(ConfigError, match=r"cache\.dtype"):
        check_config({"cache": {"dtype": {"train": "int4"}}}, "here")
