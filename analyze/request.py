"""What an analysis is asked for: which data, and what of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from analyze.allocation.search import Target
from configs.errors import ConfigError
from configs.schema.config import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisRequest:
    """What to analyse. `options` is what commands in messages need to reach the same data."""

    cache: Path | str
    split: str
    config: Config
    checkpoints: Path | str = "checkpoints"
    """Folder in which runs are looked for, unless `run_dirs` names them."""
    run_dirs: Sequence[Path | str] = ()
    device: str | torch.device = "cpu"
    limit: int | None = None
    """Only the first so many images."""
    classes: Sequence[str] = ()
    """Names of the only classes on which detection is evaluated; empty: all that have boxes."""
    options: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is asked for beyond levels and detection."""

    target: Target
    is_named: bool = False
    """The target was asked for, and is not the usual one."""
    anchors: tuple[str, ...] = ()
    """Names of `analyze.anchors.catalogue`, or one's own as `package.module:name`."""
    matrix: bool = False
    sensitivity: bool = False
    suggest_lambda: bool = False
    cross_fit: int = 0
    """Folds over which the allocation is cross-fitted; 0: none, and else at least 2."""
    choose_on: str = ""
    """Another split, by whose images the allocation is chosen; empty: by those of the split."""

    per_image: bool = False
    """What images reach that choose their runs themselves, within the target's bits per pixel, or
    those of the allocation."""

    def __post_init__(self) -> None:
        if self.cross_fit and self.choose_on:
            raise ConfigError("--cross-fit and --choose-on: give one of them, not both")
        if self.cross_fit == 1 or self.cross_fit < 0:
            raise ConfigError(f"--cross-fit {self.cross_fit}: use 2 folds or more")
