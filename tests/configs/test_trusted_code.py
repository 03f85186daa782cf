"""Code that the files of a run name is followed if its reader names it, too, or trusts it all."""

from __future__ import annotations

from typing import Any

import pytest

from configs.config_files import check_config
from configs.errors import ConfigError
from configs.schema.config import Config
from configs.trusted_code import named_code, own_trust, refuse_untrusted, trusted_code


def config(**raw: Any) -> Config:
    return check_config(raw, "test")


def test_all_code_of_its_users_own_that_a_configuration_names_is_found() -> None:
    own = config(
        model={"name": "a:A"},
        training={"distortion": "b:b"},
        data={"format": "c:c", "splits": {"val": {"images": "x"}}},
        detector={"builder": "d:d"},
        levels={2: {"model": {"name": "e:E"}, "training": {"distortion": "f:f"}}},
    )
    assert named_code(own) == {
        "model.name": "a:A",
        "training.distortion": "b:b",
        "data.format": "c:c",
        "detector.builder": "d:d",
        "levels.2.model.name": "e:E",
        "levels.2.training.distortion": "f:f",
    }
    assert named_code(config()) == {}


def test_a_commands_own_settings_and_overrides_are_trusted_and_those_of_a_run_are_not() -> None:
    own = config(model={"name": "a:A"})
    assert own_trust(own, (), of_run=False, trust_code=False) == {"a:A"}
    assert own_trust(own, (), of_run=True, trust_code=False) == frozenset()
    assert own_trust(own, ["model.name='a:A'"], of_run=True, trust_code=False) == {"a:A"}
    assert own_trust(own, (), of_run=True, trust_code=True) is True


def test_more_names_are_trusted_beside_those_of_a_configuration() -> None:
    own = config(model={"name": "a:A"})
    assert trusted_code(own, ["b:b"]) == {"a:A", "b:b"}
    assert trusted_code(own, False) == {"a:A"}
    assert trusted_code(own, True) is True


def test_code_that_is_not_trusted_is_refused_with_what_where_and_what_to_do() -> None:
    named = {"model.name": "a:A", "data.format": "c:c"}
    for trust in (True, {"a:A", "c:c"}):
        refuse_untrusted(named, trust, "run/config.yaml")
    message = r"^run/config.yaml: names code that is not ours \(data.format c:c\).*--trust-code"
    for trust in (["a:A"], frozenset({"a:A"})):
        with pytest.raises(ConfigError, match=message):
            refuse_untrusted(named, trust, "run/config.yaml")
    with pytest.raises(ConfigError, match=r"model\.name a:A"):
        refuse_untrusted(named, False, "run/config.yaml")
