"""ensemble.yaml: one way to send each level, which together send an image.

```yaml
levels:
  0: {run: checkpoints/fpn_level_0/run_1, model_sha256: 09ab.., lambda: 0.03}
  1: {run: checkpoints/fpn_level_1/run_1, model_sha256: 5f3c.., lambda: 0.03, predicted: true}
  3: dropped
  4: {derived_from: 3}
```

or one model for several levels, `{run: .., model_sha256: .., lambda: .., fused: true}` at each of
them. Run folders are relative to the file's own folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from configs.config_files import read_yaml, shown_value
from configs.errors import ConfigError
from configs.plain_json import is_finite
from data.cache.manifest_parts import LevelInfo
from data.system.atomic_files import encoded, write_atomically
from train.runs.loaded_models import LoadedModels

_DROPPED = "dropped"
_LEVEL = re.compile(r"[0-9]{1,3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RUN_KEYS = {"run", "model_sha256", "lambda"}
_PREDICTED, _FUSED = "predicted", "fused"


@dataclass(frozen=True, kw_only=True, slots=True)
class CodedLevel:
    """A level that a trained model codes. `run` is the run's folder, as this process reaches it."""

    run: Path
    model_sha256: str
    lmbda: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedLevel:
    """A level of which nothing is sent: a model makes it of the coarser level that it sees."""

    run: Path
    model_sha256: str
    lmbda: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedLevel:
    """A level that a model codes together with others, in one latent."""

    run: Path
    model_sha256: str
    lmbda: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DerivedLevel:
    """A level that is `source`[::2, ::2]: it costs nothing."""

    source: int


@dataclass(frozen=True, slots=True)
class DroppedLevel:
    """A level that is not sent: the receiver takes each channel's mean."""


ModelLevel = CodedLevel | PredictedLevel | FusedLevel
EnsembleLevel = ModelLevel | DerivedLevel | DroppedLevel


@dataclass(frozen=True, slots=True)
class Ensemble:
    """How each level is sent."""

    levels: dict[int, EnsembleLevel]

    @property
    def runs(self) -> list[Path]:
        """The runs whose models it sends by."""
        return [how.run for how in self.levels.values() if isinstance(how, ModelLevel)]

    def require_levels(self, stored: Sequence[LevelInfo]) -> None:
        """Raise ConfigError unless these are the cache's levels and can be sent in these ways."""
        infos = {info.index: info for info in stored}
        if self.levels.keys() != infos.keys():
            raise ConfigError(
                f"the ensemble sends levels {sorted(self.levels)}, the cache holds "
                f"{sorted(infos)}: give each of the cache's levels a run, or write an "
                "ensemble.yaml that says `dropped` or `derived_from`"
            )
        for level, how in self.levels.items():
            if isinstance(how, DerivedLevel) and infos[level].derived_from != how.source:
                raise ConfigError(
                    f"level {level} cannot be derived from level {how.source}: it is "
                    + (
                        f"level {infos[level].derived_from} subsampled"
                        if infos[level].derived_from is not None
                        else "no other level subsampled"
                    )
                )


def ensemble_of_runs(
    runs: Sequence[Path | str], stored: Sequence[LevelInfo], models: LoadedModels | None = None
) -> Ensemble:
    """Return what sends the cache's levels by these runs; what has no run but can be is derived.

    A run of several levels serves those that no run of a single level serves; `models` are those
    that are read already. Raises ConfigError if two runs serve one level, or none.
    """
    models = models or LoadedModels()
    found: dict[int, tuple[int, CodedLevel | FusedLevel]] = {}
    for run in map(Path, runs):
        info = models.info(run)
        # A fused run codes all of its levels, or none: as if it were of each of them alone.
        way, served = (FusedLevel, 1) if info.is_fused else (CodedLevel, len(info.levels))
        coded = way(run=run, model_sha256=info.model_sha256, lmbda=info.lmbda)
        for level in info.levels:
            others, before = found.get(level, (served + 1, coded))
            if others == served:
                raise ConfigError(f"{before.run} and {run} both serve level {level}: name one")
            if served < others:
                found[level] = (served, coded)
    levels: dict[int, EnsembleLevel] = {}
    for stored_level in stored:
        index, source = stored_level.index, stored_level.derived_from
        if index in found:
            levels[index] = found.pop(index)[1]
        elif source is not None and source in levels:
            levels[index] = DerivedLevel(source=source)
        else:
            raise ConfigError(
                f"level {index} has no run: name one with --run, or drop the level in an "
                "ensemble.yaml (--ensemble)"
            )
    extra = sorted(level for level, (served, _) in found.items() if served == 1)
    if extra:
        raise ConfigError(f"runs serve levels {extra}, which this cache does not hold")
    return Ensemble(levels)


def read_ensemble(path: Path | str) -> Ensemble:
    """Read ensemble.yaml. Raises ConfigError if it is missing or says something else."""
    path = Path(path)
    raw = read_yaml(path, str(path))
    levels = raw.get("levels") if isinstance(raw, dict) and raw.keys() == {"levels"} else None
    if not isinstance(levels, dict) or not levels:
        raise ConfigError(f"{path}: expected `levels:` and under it one entry for each level")
    return parse_levels(levels, path)


def parse_levels(levels: Mapping[Any, Any], path: Path) -> Ensemble:
    """Return the ensemble of what stands under `levels` in a file of `path`; ConfigError if wrong.

    Keys may be text, as in JSON.
    """
    found: dict[int, EnsembleLevel] = {}
    for key, how in levels.items():
        if not _LEVEL.fullmatch(str(key)) or int(key) in found:
            raise ConfigError(
                f"{path}: {shown_value(key)} is no level, or one twice: levels are 0, 1, .."
            )
        found[int(key)] = _parse_level(how, path, int(key))
    for level, entry in found.items():
        if isinstance(entry, DerivedLevel) and not (entry.source < level and entry.source in found):
            raise ConfigError(f"{path}: level {level}: level {entry.source} is no finer one of it")
    return Ensemble(dict(sorted(found.items())))


def write_ensemble(path: Path | str, ensemble: Ensemble) -> None:
    """Write ensemble.yaml atomically."""
    path = Path(path)
    write_atomically(path, encoded(ensemble_text(ensemble, path.parent)))


def ensemble_text(ensemble: Ensemble, folder: Path, *, note: str = "") -> str:
    """Return an ensemble.yaml of `folder`; `note`, a line, is a comment on how it was chosen."""
    content = {"levels": plain_levels(ensemble, folder)}
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=1000)
    return (f"# {note}\n" if note else "") + text


def plain_levels(ensemble: Ensemble, folder: Path) -> dict[int, Any]:
    """Return level -> what a file in `folder` says of it."""
    plain: dict[int, Any] = {}
    for level, how in sorted(ensemble.levels.items()):
        if isinstance(how, ModelLevel):
            plain[level] = plain_model(how, folder)
            if isinstance(how, PredictedLevel | FusedLevel):
                plain[level][_PREDICTED if isinstance(how, PredictedLevel) else _FUSED] = True
        elif isinstance(how, DerivedLevel):
            plain[level] = {"derived_from": how.source}
        else:
            plain[level] = _DROPPED
    return plain


def plain_model(how: ModelLevel, folder: Path) -> dict[str, Any]:
    """Return what a file in `folder` says of a model."""
    run = os.path.relpath(how.run.resolve(), folder.resolve())
    return {"run": run, "model_sha256": how.model_sha256, "lambda": how.lmbda}


def parse_model(how: Any, path: Path) -> CodedLevel:
    """Return what `plain_model` wrote in the file `path`; ConfigError if it is something else."""
    keys = how.keys() if isinstance(how, dict) else set()
    if keys == _RUN_KEYS and isinstance(how["run"], str):
        sha256, lmbda = how["model_sha256"], how["lambda"]
        is_hash = isinstance(sha256, str) and _SHA256.fullmatch(sha256)
        if is_hash and is_finite(lmbda) and "\0" not in how["run"]:
            return CodedLevel(run=path.parent / how["run"], model_sha256=sha256, lmbda=float(lmbda))
    raise ConfigError(
        f"{path}: expected a model: `{{run: <folder>, model_sha256: <64 hexadecimal digits>, "
        "lambda: <number>}`"
    )


def _parse_level(how: Any, path: Path, level: int) -> EnsembleLevel:
    if how == _DROPPED:
        return DroppedLevel()
    keys = how.keys() if isinstance(how, dict) else set()
    if keys == {"derived_from"} and type(how["derived_from"]) is int:
        return DerivedLevel(source=how["derived_from"])
    way = _way(how) if keys >= _RUN_KEYS else None
    if way is not None:
        with suppress(ConfigError):  # what stands below says more
            model = parse_model({key: how[key] for key in _RUN_KEYS}, path)
            return way(run=model.run, model_sha256=model.model_sha256, lmbda=model.lmbda)
    raise ConfigError(
        f"{path}: level {level}: expected `dropped`, `{{derived_from: <level>}}` or "
        "`{run: <folder>, model_sha256: <64 hexadecimal digits>, lambda: <number>}`, there with "
        "`predicted: true` if nothing is to be sent, or with `fused: true` if its model codes "
        "several levels in one"
    )


def _way(how: dict[str, Any]) -> type[ModelLevel] | None:
    """Return how a level with a run is sent by what stands there besides it; None: not told so."""
    more = how.keys() - _RUN_KEYS
    if not more:
        return CodedLevel
    ways: dict[str, type[ModelLevel]] = {_PREDICTED: PredictedLevel, _FUSED: FusedLevel}
    word = next(iter(more))
    return ways.get(word) if len(more) == 1 and how[word] is True else None
