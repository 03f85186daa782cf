"""Streams made on the GPU decode on the CPU to the same symbols, and the other way round."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.gpu_check.findings import Findings
from tests.gpu_check.settings import Settings
from tests.support.tiny_codecs import NAMES, features, ready_codec
from train.codecs.level_codec import LevelCodec

_SIZE_HW = (45, 70)


def run(settings: Settings, scratch: Path, findings: Findings) -> None:
    """Check every model."""
    x = features(*_SIZE_HW)
    for name in NAMES:
        here, there = ready_codec(name), ready_codec(name).to(settings.device)
        there.update_tables()
        for title, encoder, decoder in (
            (f"{settings.device} to cpu", there, here),
            (f"cpu to {settings.device}", here, there),
        ):
            differing, num_bytes = _differing(encoder, decoder, x)
            findings.check(
                f"{name}: streams {title} decode to the same symbols", differing == 0,
                f"{num_bytes} bytes, {differing} of the symbols differ",
            )  # fmt: skip


@torch.no_grad()
def _differing(encoder: LevelCodec, decoder: LevelCodec, x: torch.Tensor) -> tuple[int, int]:
    """Return how many symbols come out otherwise, and the bytes that all took."""
    coded = encoder.compress(x.to(encoder.mean.device))
    strings, shape = coded["strings"], coded["shape"]
    one, other = (
        codec.decode_latents(strings, shape).cpu() for codec in (encoder, decoder)
    )  # fmt: skip
    # Symbols are whole numbers, from means that each device may round in the last digit.
    num_bytes = sum(len(payload) for sample in strings for payload in sample)
    return int(((one - other).abs() > 0.5).sum()), num_bytes
