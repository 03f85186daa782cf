"""Read detector weights: checkpoints as usually wrapped, torchvision's by name, the built-in.

To find a file and hash it takes no torch: what reads one imports it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from configs.errors import ConfigError
from configs.given_files import is_file
from configs.own_code import is_own
from configs.schema.data import DEFAULT_BUILDER, SCENES_BUILDER, DetectorConfig
from extract.detector.pytorch_files import first_sentence, read_pytorch_file

if TYPE_CHECKING:
    from torch import Tensor

_BUILTIN_DIR = Path(__file__).parents[1] / "builtin"
DEFAULT_WEIGHTS = "COCO_V1"


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorWeights:
    """A state dict and what came with it."""

    state: dict[str, Tensor]
    classes: tuple[str, ...] | None
    batch_norm_eps: float | None
    """Epsilon that the batch norms were trained with; None: the layer's default."""


def weights_file(config: DetectorConfig) -> Path | None:
    """Return the file of the configured weights, there or not; None if they come from no file.

    Raises ConfigError if torchvision has no weights of that name.
    """
    builder = config.builder or DEFAULT_BUILDER
    if config.checkpoint is not None:
        return _path_of(config.checkpoint)
    if config.weights == "random" or is_own(builder):
        return None
    return _file_of(_find_named(builder, config.weights or DEFAULT_WEIGHTS))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def existing_checkpoint(name: str) -> Path:
    """Return the file of a checkpoint, or of `builtin:<name>`. Raises ConfigError if none is."""
    path = _path_of(name)
    if not is_file(path):
        raise ConfigError(
            f"detector checkpoint {name}: no such file: give --detection-checkpoint, "
            "or make one with train-detector"
        )
    return path


def read_checkpoint(name: str) -> DetectorWeights:
    """Read a checkpoint file, or `builtin:<name>`; no code in it is run.

    What training loops save is understood: state dicts bare or under the usual keys, the names that
    torch.compile, DDP, AveragedModel or Lightning make of layers' own, whole models. Raises
    ConfigError if there is no such file, or no weights in it, and says why.
    """
    from extract.detector.class_labels import read_names
    from extract.detector.state_dicts import WRAPPERS, find_state, unwrapped

    path = existing_checkpoint(name)
    try:
        content = read_pytorch_file(path)
        classes = read_names(content.get("classes")) if isinstance(content, Mapping) else None
    except ConfigError as error:
        raise ConfigError(f"detector checkpoint {name}: {error}") from error
    state = find_state(content)
    if state is None:
        raise ConfigError(
            f"detector checkpoint {name}: holds no state dict, neither bare nor under "
            f"{', '.join(WRAPPERS)}: save it with torch.save(model.state_dict(), PATH)"
        )
    eps = content.get("batch_norm_eps")
    return DetectorWeights(
        state=unwrapped(state, root="backbone"),
        classes=classes,
        batch_norm_eps=float(eps) if isinstance(eps, Real) else None,
    )


def read_named_weights(builder: str, name: str) -> DetectorWeights:
    """Read torchvision's own weights of a builder, downloading them once if need be.

    Raises ConfigError for an unknown name, or offline, saying which file to put where.
    """
    weights = _find_named(builder, name)
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"detector.weights {name}: cannot be downloaded here ({first_sentence(error)}): "
            f"fetch {weights.url} on another machine and put it at {_file_of(weights)}"
        ) from error
    return DetectorWeights(
        state=state,
        classes=tuple(weights.meta["categories"][1:]),
        # torchvision overwrites the epsilon of exactly these weights, as they were trained so.
        batch_norm_eps=0.0 if name == "COCO_V1" and "resnet50" in builder and "v2" not in builder
        else None,
    )  # fmt: skip


def _find_named(builder: str, name: str) -> Any:
    if builder == SCENES_BUILDER:
        raise ConfigError(
            f"detector.weights: {builder} has no torchvision weights: "
            "give detector.checkpoint (builtin:scenes is for the built-in example)"
        )
    import torchvision

    available = torchvision.models.get_model_weights(builder)
    if name not in available.__members__:
        raise ConfigError(
            f"detector.weights: {builder} has no weights {name!r}: "
            f"it has {', '.join(available.__members__)}, or random"
        )
    return available[name]


def _file_of(weights: Any) -> Path:
    """Where torchvision keeps its weights once they are downloaded."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name


def _path_of(name: str) -> Path:
    if name.startswith("builtin:"):
        return _BUILTIN_DIR / f"{name.removeprefix('builtin:')}.pth"
    return Path(name)
