"""Checkpoints and run folders: what a run leaves on disk and how it is found again."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from configs.errors import ConfigError
from configs.loading import check_config, dump_config, read_yaml
from configs.schema import Config
from data.atomic import write_atomically
from train.codec import LevelCodec, build_codec

BEST_NAME = "best_model.pth"
LAST_NAME = "last_model.pth"
CONFIG_NAME = "config.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a run's training data came from."""

    cache_fingerprint: str
    detector_weights_sha256: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """What a checkpoint says about its run."""

    level: int
    lmbda: float
    epoch: int
    best_validation_loss: float
    cache_fingerprint: str
    detector_weights_sha256: str
    config: Config
    model_sha256: str
    num_parameters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run folder with a best model in it."""

    folder: Path
    level: int
    lmbda: float
    config: Config


def make_run_folder(save_dir: Path, level: int, config: Config, now: datetime) -> Path:
    """Create <save_dir>_level_<l>/run_<time>_lambda_.._lr_.._bs_.. with config.yaml in it."""
    training = config.training
    name = (
        f"run_{now:%Y%m%d_%H%M%S}_lambda_{training.lmbda:.2e}_lr_{training.learning_rate:.2e}"
        f"_bs_{training.batch_size}"
    )
    parent = save_dir.with_name(f"{save_dir.name}_level_{level}")
    for suffix in ("", *(f"_{number}" for number in range(2, 1000))):
        folder = parent / f"{name}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be made ({error.strerror}): choose another --out"
            ) from error
        (folder / CONFIG_NAME).write_text(dump_config(config), encoding="utf-8")
        return folder
    raise ConfigError(f"{parent / name}: a thousand runs began in this second")


def save_checkpoint(
    path: Path,
    codec: nn.Module,
    config: Config,
    provenance: Provenance,
    *,
    level: int,
    epoch: int,
    best_validation_loss: float,
    training_state: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically; `training_state` (optimisers, scheduler) is for resuming."""
    content = {
        "model_state_dict": codec.state_dict(),
        "level": level,
        "lambda": config.training.lmbda,
        "epoch": epoch,
        "best_validation_loss": best_validation_loss,
        "cache_fingerprint": provenance.cache_fingerprint,
        "detector_weights_sha256": provenance.detector_weights_sha256,
        "versions": provenance.versions,
        "config": dump_config(config),
        **(training_state or {}),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load_codec(path: Path, device: str = "cpu") -> tuple[LevelCodec, RunInfo]:
    """Return the codec in eval mode, its coding tables ready, and what is known of its run.

    Raises ConfigError if the file is missing, damaged or no checkpoint of train-level.
    """
    codec, info = _read(path)
    codec.eval().requires_grad_(False)
    codec.update_tables()
    return codec.to(device), info


def read_run_info(path: Path) -> RunInfo:
    """Return what a checkpoint says of its run, without making its codec ready; raises as above."""
    return _read(path)[1]


def _read(path: Path) -> tuple[LevelCodec, RunInfo]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        config = check_config(yaml.safe_load(content["config"]), str(path))
        state = content["model_state_dict"]
        codec = build_codec(config.model, int(state["mean"].numel()))
        codec.load_state_dict(state)
        info = RunInfo(
            level=content["level"],
            lmbda=content["lambda"],
            epoch=content["epoch"],
            best_validation_loss=content["best_validation_loss"],
            cache_fingerprint=content["cache_fingerprint"],
            detector_weights_sha256=content["detector_weights_sha256"],
            config=config,
            model_sha256=_hash_state(state),
            num_parameters=sum(parameter.numel() for parameter in codec.parameters()),
        )
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint: run train-level first") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, OSError) as error:
        raise ConfigError(
            f"{path}: not a checkpoint of train-level, or damaged ({type(error).__name__}): "
            "train this level again, or remove the run folder"
        ) from error
    return codec, info


def find_runs(out: Path) -> list[Run]:
    """Return all runs with a best model below `out`, oldest first within each level."""
    runs = []
    for path in sorted(out.glob(f"*_level_*/run_*/{BEST_NAME}")):
        match = re.search(r"_level_(\d+)$", path.parent.parent.name)
        if match and (path.parent / CONFIG_NAME).is_file():
            runs.append(open_run(path.parent, int(match[1])))
    return runs


def open_run(folder: Path, level: int | None = None) -> Run:
    """Return a run by its folder; raises ConfigError if there is no run in it."""
    if level is None:
        match = re.search(r"_level_(\d+)$", folder.resolve().parent.name)
        if match is None:
            raise ConfigError(f"{folder}: lies in no folder *_level_<l>: name a run_* folder")
        level = int(match[1])
    config_path = folder / CONFIG_NAME
    if not config_path.is_file() or not (folder / BEST_NAME).is_file():
        raise ConfigError(f"{folder}: holds no finished run ({BEST_NAME} and {CONFIG_NAME})")
    config = check_config(read_yaml(config_path, str(config_path)), str(config_path))
    return Run(folder=folder, level=level, lmbda=config.training.lmbda, config=config)


def _hash_state(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the trained tensors; coding tables are left out, they follow from the others."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.rsplit(".", 1)[-1] not in ("_quantized_cdf", "_offset", "_cdf_length"):
            digest.update(name.encode())
            digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
