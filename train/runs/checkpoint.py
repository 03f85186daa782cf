"""Checkpoints: a codec with what is known of its run, and the state from which training goes on."""

from __future__ import annotations

import hashlib
import io
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.config_files import check_config, dump_config, parse_yaml
from configs.errors import ConfigError
from configs.own_code import is_own
from configs.schema.config import Config
from configs.trusted_code import Trust, refuse_untrusted
from data.system.atomic_files import sync_folder, write_atomically
from extract.detector.pytorch_files import UNREADABLE, first_sentence
from train.codecs.catalogue import build_codec
from train.codecs.level_codec import LevelCodec
from train.runs.bounded_weights import NoMoreThan
from train.runs.checkpoint_file import read_content, sealed

log = logging.getLogger(__name__)

BEST_NAME = "best_model.pth"
LAST_NAME = "last_model.pth"
PREVIOUS_NAME = "previous_model.pth"

_CODING_TABLES = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a run's training data came from."""

    cache_fingerprint: str
    detector_weights_sha256: str
    versions: dict[str, str]
    context: tuple[str, ...] = ()
    """Hashes of the models of the coarser level that it was trained beside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """What a checkpoint says about its run."""

    levels: tuple[int, ...]
    """One level, or those that a model for all of them serves."""
    lmbda: float
    epoch: int
    best_validation_loss: float
    cache_fingerprint: str
    detector_weights_sha256: str
    config: Config
    model_sha256: str
    num_parameters: int
    context: tuple[str, ...] = ()
    """Hashes of the models of the coarser level that it was trained beside; none: it codes alone.

    What it codes is decoded beside one of them, and no other.
    """

    @property
    def is_fused(self) -> bool:
        """Whether it codes its levels all in one (--level fused), not each by itself."""
        return self.config.model.pyramid is not None

    @property
    def level(self) -> int:
        """The level of a codec that serves one; ConfigError if it serves several."""
        if len(self.levels) > 1:
            of = "fused" if self.is_fused else "random"
            raise ConfigError(
                f"a model of the levels {list(self.levels)} (--level {of}) where one of a single "
                "level is needed: name a run of train-level --level 0 to 4"
            )
        return self.levels[0]

    @property
    def context_in_words(self) -> str:
        """Name the runs that it was trained beside, by folders as they lay then and by models."""
        models = (f"model {sha256[:12]}" for sha256 in self.context)
        return " or ".join((*self.config.training.context, *models))

    def row_of(self, level: int, source: str | Path) -> int:
        """Return the codec's row for a level; ConfigError, which names `source`, without one."""
        if level not in self.levels:
            raise ConfigError(f"{source}: serves the levels {list(self.levels)}, not level {level}")
        return self.levels.index(level)


def encode_checkpoint(
    model_state: dict[str, Any],
    config: Config,
    provenance: Provenance,
    *,
    levels: tuple[int, ...],
    epoch: int,
    best_validation_loss: float,
    training_state: dict[str, Any] | None = None,
) -> bytes:
    """Return a checkpoint's bytes; `training_state` is what `Session.state` returns."""
    content = {
        "model_state_dict": model_state,
        "levels": list(levels),
        "lambda": config.training.lmbda,
        "epoch": epoch,
        "best_validation_loss": best_validation_loss,
        "cache_fingerprint": provenance.cache_fingerprint,
        "detector_weights_sha256": provenance.detector_weights_sha256,
        "versions": provenance.versions,
        "context": list(provenance.context),
        "config": dump_config(config),
    }
    if training_state is not None:
        content["training_state"] = training_state
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return sealed(buffer.getvalue())


def save_best(folder: Path, data: bytes) -> None:
    """Write best_model.pth atomically."""
    write_atomically(folder / BEST_NAME, data)


def save_last(folder: Path, data: bytes) -> None:
    """Write last_model.pth; the one before it stays as previous_model.pth."""
    fresh = folder / f"{LAST_NAME}.new"
    write_atomically(fresh, data)
    last = folder / LAST_NAME
    if last.exists():
        last.replace(folder / PREVIOUS_NAME)
    fresh.replace(last)
    sync_folder(folder)


def load_last(folder: Path) -> dict[str, Any] | None:
    """Return the newest whole checkpoint of a run that can go on, or None if there is none yet.

    A damaged one is passed over, with a warning, for the one before it; raises ConfigError if all
    that are there are damaged, PassingError if the system refuses one, which may be whole.
    """
    problems = []
    for name in (LAST_NAME, PREVIOUS_NAME):
        path = folder / name
        if not path.exists():
            continue
        try:
            content = read_content(path)
            content["training_state"]["progress"]
        except UNREADABLE as error:
            problems.append(f"{path}: damaged ({error})")
            continue
        for problem in problems:
            log.warning("%s: going on from %s, which is older", problem, name)
        return content
    if problems:
        raise ConfigError(f"{'; '.join(problems)}: start the run anew with --resume never")
    return None


def load_codec(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    level: int | None = None,
    trust_code: Trust = False,
) -> tuple[LevelCodec, RunInfo]:
    """Return the codec in eval mode, its coding tables ready, and what is known of its run.

    `level` chooses the standardisation of a codec that serves several. The checkpoint of a codec of
    somebody's own names its code, which is imported if `trust_code` says so: True, or its names.
    Raises ConfigError if it does not, or if the file is missing, damaged, no checkpoint of
    train-level, or not for that level.
    """
    codec, info = read_checkpoint(Path(path), trust_code)
    if level is not None:
        codec.use_level(info.row_of(level, path))
    return ready_to_code(codec, device), info


def ready_to_code(codec: LevelCodec, device: str | torch.device) -> LevelCodec:
    """Return the codec in eval mode on the device, its coding tables made."""
    codec.eval().requires_grad_(False)
    # As the maps come: else each convolution makes a copy of its weights for every map.
    codec.to(memory_format=torch.channels_last)
    codec.update_tables()
    codec.to(device)
    return codec


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Return a checkpoint's model state; raises ConfigError as above."""
    try:
        weights: dict[str, torch.Tensor] = read_content(Path(path))["model_state_dict"]
    except UNREADABLE as error:
        raise _not_a_checkpoint(Path(path), error) from error
    return weights


def read_run_info(path: str | Path, trust_code: Trust = False) -> RunInfo:
    """Return what a checkpoint says of its run, without making its codec ready; raises as above."""
    return read_checkpoint(Path(path), trust_code)[1]


def hash_model(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the trained tensors; coding tables are left out, they follow from the others."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.rsplit(".", 1)[-1] not in _CODING_TABLES:
            digest.update(name.encode())
            digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_checkpoint(path: Path, trust_code: Trust = False) -> tuple[LevelCodec, RunInfo]:
    """Return the codec as it was stored, on the CPU, and what is known of its run; raises as above.

    `ready_to_code` is what it still needs before it codes.
    """
    try:
        content = read_content(path)
        config = check_config(parse_yaml(str(content["config"]), str(path)), str(path))
        if is_own(config.model.name):
            refuse_untrusted({"model.name": config.model.name}, trust_code, path)
        state = content["model_state_dict"]
        num_levels, num_channels = state["mean"].shape
        if num_levels != len(content["levels"]):
            raise ConfigError(
                f"{path}: says that it serves {len(content['levels'])} levels, its weights are of "
                f"{num_levels}: write the levels that it was trained for, or train them again"
            )
        codec = _codec_of(path, config, num_channels, num_levels)
        _load(codec, state, path, config.model.name)
        info = RunInfo(
            levels=tuple(content["levels"]),
            lmbda=content["lambda"],
            epoch=content["epoch"],
            best_validation_loss=content["best_validation_loss"],
            cache_fingerprint=content["cache_fingerprint"],
            detector_weights_sha256=content["detector_weights_sha256"],
            config=config,
            model_sha256=hash_model(state),
            num_parameters=sum(parameter.numel() for parameter in codec.parameters()),
            context=tuple(content.get("context", ())),
        )
    except UNREADABLE as error:
        raise _not_a_checkpoint(path, error) from error
    return codec, info


def _codec_of(path: Path, config: Config, num_channels: int, num_levels: int) -> LevelCodec:
    # Own code makes what it likes, and is trusted.
    model = config.model
    bound: AbstractContextManager[object] = nullcontext()
    if not is_own(model.name):
        bound = NoMoreThan(path.stat().st_size, max(model.n_hidden, model.n_channels))
    try:
        with bound:
            return build_codec(model, num_channels, num_levels)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _load(codec: LevelCodec, state: dict[str, torch.Tensor], path: Path, model: str) -> None:
    try:
        codec.load_state_dict(state)
    except RuntimeError as error:
        do = "bring back the code that it was trained with" if is_own(model) else (
            "write the settings that it was trained with"
        )  # fmt: skip
        raise ConfigError(
            f"{path}: its weights do not fit {model} as it is now: {do}, or train this level again"
        ) from error


def _not_a_checkpoint(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{path}: not a checkpoint of train-level, or damaged ({first_sentence(error)}): "
        "train this level again, or remove the run folder"
    )
