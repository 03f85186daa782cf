"""candidates.yaml: the ways among which each image chooses, one line for each.

```yaml
distortion: mAP
ways:
- {level: 3, run: runs/level_3/run_1, model_sha256: 09ab.., lambda: 0.05, weight: 0.016}
- {level: 2, run: runs/level_2/run_1, model_sha256: 5f3c.., lambda: 0.05, beside: 0, weight: 0.04}
- {level: 1, run: runs/level_1/run_1, model_sha256: 82a0.., lambda: 0.05, predicted: true,
   beside: 1, weight: 0.05}
- {level: 2, dropped: true, weight: 0.06}
- {level: 4, derived_from: 3, weight: 0.0}
```

`weight` is the distortion by unit of the level's MSE with this way in place, as it was measured:
what makes errors of different levels, and of different models, comparable. `beside` is the place of
the way, counted from 0, beside which a contextual run is decoded: its error hangs on that. Run
folders are relative to the file's own folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analyze.file_format.section_heads import MAX_MODELS
from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    DroppedLevel,
    Ensemble,
    EnsembleLevel,
    ModelLevel,
    PredictedLevel,
    parse_model,
    plain_model,
)
from configs.config_files import read_yaml
from configs.errors import ConfigError
from configs.plain_json import is_finite
from data.cache.manifest_parts import LevelInfo

_MODEL_KEYS = ("run", "model_sha256", "lambda")


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to send one level."""

    level: int
    how: EnsembleLevel
    weight: float
    """Distortion by unit of the MSE; of a derived level by that of its source."""
    beside: int | None = None
    """Place of the coarser level's way beside which it is decoded."""

    @property
    def error_level(self) -> int:
        """The level by whose error it is judged: a derived level is a part of its source."""
        return self.how.source if isinstance(self.how, DerivedLevel) else self.level


@dataclass(frozen=True, slots=True)
class Ways:
    """All that an image chooses from, coarser levels' ways before those decoded beside them."""

    each: tuple[Way, ...]
    distortion: str
    """What weights times MSE are in."""

    @property
    def models(self) -> tuple[CodedLevel, ...]:
        """Return the models that are needed, each once."""
        found: dict[str, CodedLevel] = {}
        for way in self.each:
            how = way.how
            if isinstance(how, ModelLevel):
                model = CodedLevel(run=how.run, model_sha256=how.model_sha256, lmbda=how.lmbda)
                found.setdefault(how.model_sha256, model)
        return tuple(found.values())

    def ensemble(self, places: Sequence[int]) -> Ensemble:
        """Return how an image is sent that has chosen these ways."""
        levels = {self.each[place].level: self.each[place].how for place in places}
        return Ensemble(dict(sorted(levels.items())))

    def require_levels(self, stored: Sequence[LevelInfo]) -> None:
        """Raise ConfigError unless these are ways of the cache's levels, each of which has one."""
        levels = sorted({way.level for way in self.each})
        if levels != [info.index for info in stored]:
            raise ConfigError(
                f"the candidates are of levels {levels}, the cache holds "
                f"{[info.index for info in stored]}: name those of an analysis of this cache"
            )
        sources = {info.index: info.derived_from for info in stored}
        for way in self.each:
            if isinstance(way.how, DerivedLevel) and way.how.source != sources[way.level]:
                raise ConfigError(
                    f"level {way.level} cannot be derived from level {way.how.source}: name the "
                    "candidates of an analysis of this cache"
                )
        if len(self.models) > MAX_MODELS:
            raise ConfigError(f"{len(self.models)} models: name at most {MAX_MODELS} candidates")


def plain_ways(ways: Ways) -> list[dict[str, Any]]:
    """Return what JSON says of them, models by their place in `ways.models`."""
    numbers = {each.model_sha256: number for number, each in enumerate(ways.models)}
    return [
        _plain(
            way,
            {"model": numbers[way.how.model_sha256]} if isinstance(way.how, ModelLevel) else {},
        )
        for way in ways.each
    ]


def candidates_text(ways: Ways, folder: Path) -> str:
    """Return a candidates.yaml of `folder`."""
    content = [
        _plain(way, plain_model(way.how, folder) if isinstance(way.how, ModelLevel) else {})
        for way in ways.each
    ]
    lines = (
        yaml.safe_dump(each, sort_keys=False, default_flow_style=True, width=2**20)
        for each in content
    )
    return f"distortion: {ways.distortion}\nways:\n" + "".join(f"- {line}" for line in lines)


def read_candidates(path: Path | str) -> Ways:
    """Read candidates.yaml. Raises ConfigError if it is missing or says something else."""
    path = Path(path)
    raw = read_yaml(path, str(path))
    if (
        not isinstance(raw, dict)
        or raw.keys() != {"distortion", "ways"}
        or not isinstance(raw["ways"], list)
        or not isinstance(raw["distortion"], str)
    ):
        raise ConfigError(f"{path}: expected `distortion:` and `ways:`, as analyze-levels writes")
    found: list[Way] = []
    for place, each in enumerate(raw["ways"]):
        found.append(_parsed(each, path, place, found))
    return Ways(tuple(found), raw["distortion"])


def _plain(way: Way, model: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {"level": way.level, **model}
    if isinstance(way.how, PredictedLevel):
        plain["predicted"] = True
    elif isinstance(way.how, DerivedLevel):
        plain["derived_from"] = way.how.source
    elif isinstance(way.how, DroppedLevel):
        plain["dropped"] = True
    if way.beside is not None:
        plain["beside"] = way.beside
    return {**plain, "weight": way.weight}


def _parsed(raw: Any, path: Path, place: int, earlier: Sequence[Way]) -> Way:
    where = f"{path}: way {place}"
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected `{{level: .., weight: .., ..}}`")
    level, beside = raw.get("level"), raw.get("beside")
    weight: Any = raw.get("weight")
    if type(level) is not int or level < 0:
        raise ConfigError(f"{where}: its level is no level: levels are 0, 1, ..")
    if not is_finite(weight) or weight < 0:
        raise ConfigError(f"{where}: its weight is no number from 0 on")
    known: EnsembleLevel
    told = raw.keys() - {"level", "weight", "beside"}
    if set(_MODEL_KEYS) <= told:
        model = parse_model({key: raw[key] for key in _MODEL_KEYS}, path)
        rest = {key: raw[key] for key in told - set(_MODEL_KEYS)}
        kind = PredictedLevel if rest == {"predicted": True} else CodedLevel
        known = kind(run=model.run, model_sha256=model.model_sha256, lmbda=model.lmbda)
        is_known = rest in ({}, {"predicted": True})
    else:
        rest = {key: raw[key] for key in told}
        is_derived = rest.keys() == {"derived_from"} and type(rest["derived_from"]) is int
        known = DerivedLevel(source=rest["derived_from"]) if is_derived else DroppedLevel()
        is_known = is_derived or rest == {"dropped": True}
    if not is_known:
        raise ConfigError(f"{where}: expected a run, `dropped: true` or `derived_from: <level>`")
    if beside is not None:
        is_place = type(beside) is int and 0 <= beside < len(earlier)
        if not is_place or not isinstance(known, ModelLevel) or earlier[beside].level <= level:
            raise ConfigError(f"{where}: beside {beside} is no earlier way of a coarser level")
    return Way(level=level, how=known, weight=float(weight), beside=beside)
