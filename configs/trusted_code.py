"""Which code of their users' own the files of runs may name: what their reader has said himself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from configs.config_files import parse_yaml
from configs.errors import ConfigError
from configs.own_code import is_own
from configs.schema.config import Config

Trust = bool | Collection[str]
"""Whether the code that a file names may be imported: all, none, or what is of these names."""


def named_code(config: Config) -> dict[str, str]:
    """Return setting -> name of all code of its user's own that a configuration names."""
    named = {
        "model.name": config.model.name,
        "training.distortion": config.training.distortion,
        "data.format": config.data.format,
        "detector.builder": config.detector.builder or "",
    }
    for level, own in config.levels.items():
        named[f"levels.{level}.model.name"] = own.model.name
        named[f"levels.{level}.training.distortion"] = own.training.distortion
    return {setting: name for setting, name in named.items() if is_own(name)}


def trusted_code(config: Config, more: Trust = ()) -> Trust:
    """Return what a configuration names that is its reader's own, and `more`."""
    names = frozenset(named_code(config).values())
    if isinstance(more, bool):
        return more or names
    return names | frozenset(more)


def own_trust(config: Config, overrides: Iterable[str], *, of_run: bool, trust_code: bool) -> Trust:
    """Return what a command may follow: all by --trust-code, else what its own settings name.

    Those of `config` are not its own where it is `of_run`, that is read from a run's folder; the
    overrides are.
    """
    if trust_code or not of_run:
        return trusted_code(config, trust_code)
    given = (parse_yaml(each.partition("=")[2], f"--set {each}") for each in overrides)
    return frozenset(value for value in given if isinstance(value, str) and is_own(value))


def refuse_untrusted(named: Mapping[str, str], trust: Trust, where: object) -> None:
    """Raise ConfigError for the first code that the file `where` names, and `trust` does not."""
    for setting, name in named.items():
        if trust is True or (trust and name in trust):
            continue
        raise ConfigError(
            f"{where}: names code that is not ours ({setting} {name}), which would be run: if you "
            "trust it add --trust-code (in Python trust_code=True), or name it in the command's "
            "own --config or --set"
        )
