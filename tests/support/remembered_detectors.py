"""Detectors that are loaded once in a process: tests load the same ones all the time."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.own_code import is_own
from configs.schema.data import DetectorConfig
from extract.detector import loading
from extract.detector.loading import LoadedDetector

_load = loading.load_detector
_loaded: dict[Any, LoadedDetector] = {}
_MOST = 4


@wraps(_load)
def _remembered(config: DetectorConfig, device: str | torch.device = "cpu") -> LoadedDetector:
    key = _key(config)
    if key is None or torch.device(device).type != "cpu":
        return _load(config, device)
    if key not in _loaded:
        _loaded[key] = _load(config, device)
        if len(_loaded) > _MOST:
            _loaded.pop(next(iter(_loaded)))
    known = _loaded[key]
    return replace(known, model=deepcopy(known.model))


def _key(config: DetectorConfig) -> tuple[str, int, int, int] | None:
    """Say what a detector hangs on; None if on more than its settings and one file as it is."""
    if config.checkpoint is None or is_own(config.builder or ""):
        return None
    try:
        file = Path(config.checkpoint).stat()
    except OSError:
        return None
    # A file whose bytes change gets another time of change, whatever is done to the other one.
    return config.model_dump_json(), file.st_dev, file.st_ino, file.st_ctime_ns


def remember_detectors(patched: pytest.MonkeyPatch) -> None:
    """Have what commands load remembered; a test that imports `load_detector` has the real one."""
    patched.setattr(loading, "load_detector", _remembered)
    patched.setattr("analyze.measure.split.load_detector", _remembered)
