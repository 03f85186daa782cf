"""YAML file plus `--set` overrides in, checked Config out; every mistake is one clear line."""

from __future__ import annotations

import re
import reprlib
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import ConfigError, PassingError, did_you_mean
from configs.given_files import regular
from configs.schema.config import Config

PACKAGED_DIR = Path(__file__).parent
DEFAULT_NAME = "train_factorized_prior_specific_level_fpn"


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 5e-5 as a number and refuses a key given twice."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node; for `!!int x` and 2024-13-45, too, errors are YAML's own."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            problem = f"{shown_value(node.value)} is no {kind}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


_MERGE = "tag:yaml.org,2002:merge"  # of `<<`, which takes in the keys of another mapping


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue
        where = f"{node.start_mark.name}: line {key_node.start_mark.line + 1}"
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise ConfigError(f"{where}: the key {shown_value(key)} is no text: write a name")
        if key in seen:
            raise ConfigError(f"{where}: the key '{key}' is given twice: remove one")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)


def packaged_names() -> list[str]:
    """Return the names of the configurations that ship with the package."""
    return sorted(path.stem for path in PACKAGED_DIR.glob("*.yaml"))


def find_config(name: str | None) -> Path:
    """Return the path of a configuration: a file, else a packaged name, else the default.

    Raises ConfigError if there is neither such a file nor such a packaged name.
    """
    if name is None:
        return PACKAGED_DIR / f"{DEFAULT_NAME}.yaml"
    path = Path(name)
    if path.is_file():
        return path
    packaged = PACKAGED_DIR / f"{path.name.removesuffix('.yaml')}.yaml"
    if packaged.is_file() and path.parent in (Path(), Path("configs")):
        return packaged
    hint = did_you_mean(path.stem, packaged_names())
    raise ConfigError(
        f"--config {name}: no such file, and no packaged configuration of that name"
        f"{hint or '; packaged are ' + ', '.join(packaged_names())}"
    )


def load_config(name: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration (see `find_config`) and apply `section.key=value` overrides.

    Several, with commas between them, are read one over the other: `mine.yaml,fast`; a Path is one.
    An override counts for all levels, whatever `levels` says of them; one of `levels.0...` for that
    one.
    Raises ConfigError with one line that names the key, the file and the nearest valid name.
    """
    raw: dict[str, Any] = {}
    names: list[str | None] = [None] if name is None else [str(name)]
    if isinstance(name, str):
        names = list(name.split(","))
    for each in names:
        path = find_config(each)
        raw = _merged(raw, read_yaml(path, each or path.name))
    shown = str(name or path.name)
    origin: dict[tuple[str, ...], str] = {}
    given = [(_keys(override), override) for override in overrides]
    # What is said of one level counts more than what is said of all, in whatever order.
    for keys, override in sorted(given, key=lambda each: each[0][0] == "levels"):
        text = override.partition("=")[2]
        _forget_in_levels(raw, keys)
        _assign(raw, keys, parse_yaml(text, f"--set {override}"), f"--set {override}")
        origin[tuple(map(str, keys))] = f"--set {override}"
    return check_config(raw, shown, origin)


def _keys(override: str) -> tuple[Any, ...]:
    key, separator, _ = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    section, *below = key.strip().split(".")
    # YAML reads a level's number as one.
    return section, *(int(k) if section == "levels" and k.isdecimal() else k for k in below)


def _forget_in_levels(raw: dict[str, Any], keys: tuple[Any, ...]) -> None:
    """Remove a key from the sections of all levels, as what is given for all now counts."""
    levels = raw.get("levels")
    for section in list(levels.values()) if isinstance(levels, dict) else []:
        for key in keys[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(keys[-1], None)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return both mappings in one; where both have a value that of `over` counts."""
    result = dict(under)
    for key, value in over.items():
        there = result.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            value = _merged(there, value)
        result[key] = value
    return result


def read_yaml(path: Path, shown: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; an empty file is an empty mapping."""
    try:
        text = regular(path).read_text(encoding="utf-8")
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise ConfigError(f"{shown}: cannot be read: {error}") from error
        raise PassingError.reading(shown, error) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: cannot be read: {error}") from error
    content = parse_yaml(text, shown)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{shown}: holds {shown_value(content)}: write sections such as `training:` instead"
        )
    return content


def check_config(
    raw: Mapping[str, Any], shown: str, origin: Mapping[tuple[str, ...], str] | None = None
) -> Config:
    """Validate a nested mapping; `shown` is the file that messages name."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_describe(error, shown, origin or {})) from None


def dump_config(config: Config) -> str:
    """Return the whole configuration as YAML text that `load_config` reads back unchanged."""
    content = config.model_dump(mode="json", by_alias=True)
    levels = {int(level): sections for level, sections in content.pop("levels").items()}
    return yaml.safe_dump(content | ({"levels": levels} if levels else {}), sort_keys=False)


_MOST_VALUES = 1_000_000


def parse_yaml(text: str, shown: str) -> Any:
    """Return what YAML text says; ConfigError, in which `shown` says where it stands, if nothing.

    Aliases may not make more of it than a million values: some lines of them make billions.
    """
    try:
        loader = _Loader(text)
        loader.name = shown
        node = loader.get_single_node()
        if node is None:
            return None
        if _num_values(node, {}) > _MOST_VALUES:
            raise ConfigError(f"{shown}: its aliases make more than a million values: write less")
        return loader.construct_document(node)
    except RecursionError:
        raise ConfigError(f"{shown}: not valid YAML: nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise ConfigError(f"{shown}: {where}not valid YAML: {problem}") from None


def _num_values(node: Any, known: dict[int, int]) -> int:
    """Return how many values a node is, those that an alias names counted each time."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 1  # one that holds itself is told when it is made
        below = node.value
        if isinstance(node, yaml.MappingNode):
            below = [each for pair in node.value for each in pair]
        known[id(node)] += sum(_num_values(each, known) for each in below)
    return known[id(node)]


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def shown_value(value: object) -> str:
    """Return a value as messages show it: what is long, or holds much, cut short."""
    return _SHORT.repr(value)


def _assign(raw: dict[str, Any], keys: tuple[Any, ...], value: Any, shown: str) -> None:
    section = raw
    for key in keys[:-1]:
        below = section.setdefault(key, {})
        if below is None:
            below = section[key] = {}
        if not isinstance(below, dict):
            raise ConfigError(f"{shown}: '{key}' holds a value, not a section")
        section = below
    section[keys[-1]] = value


def _describe(error: ValidationError, shown: str, origin: Mapping[tuple[str, ...], str]) -> str:
    first = error.errors()[0]
    location = tuple(str(part) for part in first["loc"])
    if location[-1:] == ("[key]",):
        location = location[:-2]  # of a name that is itself what is wrong, and is shown
    key = ".".join(location)
    is_unknown = first["type"] == "extra_forbidden"
    where = next(
        (
            text
            for keys, text in origin.items()
            # An unknown section is reported itself, not the key that an override put into it.
            if location[: len(keys)] == keys or (is_unknown and keys[: len(location)] == location)
        ),
        shown,
    )
    if is_unknown:
        hint = did_you_mean(location[-1], _valid_names(location[:-1]))
        valid = ", ".join(_valid_names(location[:-1]))
        return f"{where}: unknown key '{key}'{hint or f'; valid here are {valid}'}"
    problem = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    if first["type"] == "literal_error":
        hint = did_you_mean(str(given), re.findall(r"'([^']+)'", first["msg"]))
        return f"{where}: {key}: {shown_value(given)} is not allowed: {problem}{hint}"
    if first["type"] == "model_type":
        return (
            f"{where}: {key}: {shown_value(given)} is not allowed: "
            "write a section, or {} for its defaults"
        )
    if isinstance(given, dict | BaseModel):
        return f"{where}: {key or 'configuration'}: {problem}"
    return f"{where}: {key}: {shown_value(given)} is not allowed: {problem}"


def _valid_names(location: tuple[str, ...]) -> list[str]:
    """Names allowed at a place of the schema, as YAML spells them."""
    model: type[BaseModel] | None = Config
    for part in location:
        if model is None:
            break
        names = {field.alias or name: field for name, field in model.model_fields.items()}
        model = _section_of(names[part].annotation) if part in names else model
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation such as `X`, `X | None` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        found = (_section_of(part) for part in typing.get_args(annotation))
        return next((section for section in found if section), None)
    return None
