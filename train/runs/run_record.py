"""run.json: what a run folder records of its run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from configs.errors import ConfigError, PassingError
from configs.given_files import regular
from configs.plain_json import parse_json
from configs.schema.section import first_problem
from data.system.atomic_files import write_atomically

RECORD_NAME = "run.json"
RANDOM = "random"
"""In place of a level's number: a run of `--level random`."""
FUSED = "fused"
"""In place of a level's number: a run of `--level fused`."""
ALL_DONE = "all epochs done"
"""Why a run is finished that nothing stopped early."""


def _level(level: int | str) -> int | str:
    """Return the level of a run, which names its folder; ValueError for what is none."""
    if level in (RANDOM, FUSED) or (type(level) is int and level >= 0):
        return level
    raise ValueError(f"{level!r} is no level")


RunKeys = Literal["run", "model_sha256"]


@dataclass(kw_only=True, slots=True)
class RunRecord:
    """run.json: where a run's numbers come from. `finished` says why it ended, None before."""

    level: Annotated[int | str, BeforeValidator(_level)]
    lmbda: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cache_fingerprints: dict[str, str]
    """Of the train and val caches, a file of channel weights if there is one, and own code."""
    detector_weights_sha256: str
    versions: dict[str, str]
    seed: int
    device: str
    precision: str
    machine: str
    num_processes: int
    num_threads: int
    started: str
    precision_reason: str = ""
    """Why it is this precision, where `training.precision` is auto."""
    compiled: bool | None = False
    """Whether steps are compiled; None before that is decided."""
    compile_reason: str = ""
    """Why, where `training.compile` is auto."""
    warm_start: Annotated[dict[RunKeys, str], Field(min_length=2)] | None = None
    """Folder and model hash of the run whose best model this one began from."""
    context: list[dict[RunKeys, str]] = field(default_factory=list)
    """Folder and model hash of each run of the coarser level whose decoded maps its codec sees."""
    continued: list[dict[str, Any]] = field(default_factory=list)
    """Of a run that was finished and got more epochs: `run` (folder) and `epochs`, each time."""
    seconds: float = 0.0
    samples_per_s: float = 0.0
    epochs: int = 0
    finished: str | None = None

    def save(self, folder: Path) -> None:
        """Write run.json atomically."""
        write_atomically(folder / RECORD_NAME, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path | str) -> RunRecord:
        """Read run.json; raises ConfigError if it is missing or damaged.

        PassingError if the system refuses it.
        """
        path = Path(folder) / RECORD_NAME
        try:
            return _RECORD.validate_python(parse_json(regular(path).read_bytes()))
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else error
            raise ConfigError(
                f"{path}: missing or damaged ({reason}): start the run anew with --resume never"
            ) from error
        except OSError as error:
            raise PassingError.reading(path, error) from error


_RECORD = TypeAdapter(RunRecord)
