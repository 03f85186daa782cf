"""What the environment says: where to check, for how long, and where the results go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

DEFAULT_S = 480.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """`seconds` for everything; `images`: a folder of photographs, or None."""

    device: str
    seconds: float
    out: Path
    images: Path | None

    @property
    def is_small(self) -> bool:
        """Whether sizes are cut down until a CPU is done in no time; figures then say nothing."""
        return self.device == "cpu"

    @property
    def device_name(self) -> str:
        """The GPU's name, or "cpu"."""
        return "cpu" if self.is_small else torch.cuda.get_device_name(self.device)


def settings_of(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings that GPU_CHECK_DEVICE, _S, _OUT and _IMAGES give.

    Raises ValueError for a device that is not there, seconds that are no number, or a folder of
    images that does not exist.
    """
    has_gpu = torch.cuda.is_available()
    device = environment.get("GPU_CHECK_DEVICE") or ("cuda" if has_gpu else "cpu")
    if device != "cpu" and not (has_gpu and device.startswith("cuda")):
        raise ValueError(f"GPU_CHECK_DEVICE={device}: not there; leave it out, or name cpu")
    images = environment.get("GPU_CHECK_IMAGES")
    if images and not Path(images).is_dir():
        raise ValueError(f"GPU_CHECK_IMAGES={images}: no such folder")
    return Settings(
        device=device,
        seconds=float(environment.get("GPU_CHECK_S") or DEFAULT_S),
        out=Path(environment.get("GPU_CHECK_OUT") or "gpu-check").resolve(),
        images=Path(images).resolve() if images else None,
    )
