"""ensemble.yaml: one multi-level codec out of the best models, as compression reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.loading import read_yaml
from data.atomic import write_atomically

_HEAD = "# Which model codes which level: compress-features --ensemble reads it.\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleLevel:
    """What is done with one level: one of the three is set."""

    run: Path | None = None
    model_sha256: str | None = None
    """Of the run's weights, so that a run trained anew is not taken for the one that was meant."""
    derived_from: int | None = None
    dropped: bool = False


Ensemble = dict[int, EnsembleLevel]


def save_ensemble(path: Path, ensemble: Mapping[int, EnsembleLevel], *, note: str) -> None:
    """Write the file; run folders as they are named. `note` is a comment on how it was chosen."""
    levels: dict[int, dict[str, Any]] = {}
    for level, each in sorted(ensemble.items()):
        if each.run is not None:
            levels[level] = {"run": str(each.run), "model_sha256": each.model_sha256}
        elif each.derived_from is not None:
            levels[level] = {"derived_from": each.derived_from}
        else:
            levels[level] = {"dropped": True}
    text = f"{_HEAD}# {note}\n" + yaml.safe_dump({"levels": levels}, sort_keys=False)
    write_atomically(path, text.encode())


def load_ensemble(path: Path) -> Ensemble:
    """Read the file; ConfigError names what is wrong with it. Relative runs lie where it says."""
    where = str(path)
    raw = read_yaml(path, where)
    levels = raw.get("levels") if isinstance(raw, dict) else None
    if not isinstance(levels, dict) or not levels:
        raise ConfigError(f"{where}: needs `levels`: level -> run, derived_from or dropped")
    return {_level(key, where): _entry(key, value, where) for key, value in levels.items()}


def _level(key: Any, where: str) -> int:
    if not isinstance(key, int) or isinstance(key, bool) or key < 0:
        raise ConfigError(f"{where}: levels: {key!r} is no level: use 0, 1, 2 ...")
    return key


def _entry(level: Any, value: Any, where: str) -> EnsembleLevel:
    match value:
        case {"run": str(run), "model_sha256": str(model_sha256), **rest} if not rest:
            return EnsembleLevel(run=Path(run), model_sha256=model_sha256)
        case {"run": str(run), **rest} if not rest:
            return EnsembleLevel(run=Path(run))
        case {"derived_from": int(source), **rest} if not rest and source != level:
            return EnsembleLevel(derived_from=source)
        case {"dropped": True, **rest} if not rest:
            return EnsembleLevel(dropped=True)
    raise ConfigError(
        f"{where}: level {level}: needs one of `run: FOLDER`, `derived_from: LEVEL`, "
        f"`dropped: true`, not {value!r}"
    )
