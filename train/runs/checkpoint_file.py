"""What a checkpoint's file holds: sealed by us, or written by a program of somebody's own."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import torch
import xxhash

from configs.errors import ConfigError, PassingError
from configs.given_files import regular
from extract.detector.honest_size import refuse_expanded, refuse_inflating
from extract.detector.pytorch_files import read_pytorch_file
from extract.detector.state_dicts import unwrapped

log = logging.getLogger(__name__)

# Appended to a checkpoint, which is a ZIP archive and may have bytes after its end: the magic and
# the XXH3-64 of all before it, so that a flipped byte cannot become a weight.
_SEAL_MAGIC = b"FPNLSEAL"
_SEAL_BYTES = len(_SEAL_MAGIC) + 8
_ZIP_END_BYTES = 22  # of the record that ends a ZIP archive without comment
_NEEDED = {
    "model_state_dict", "levels", "lambda", "epoch", "best_validation_loss", "cache_fingerprint",
    "detector_weights_sha256", "config",
}  # fmt: skip


def sealed(data: bytes) -> bytes:
    """Return what torch.save wrote with its seal."""
    return data + _SEAL_MAGIC + xxhash.xxh3_64_digest(data)


def read_content(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, its weights under the codec's own names.

    Raises ConfigError if there is none, or if another program has written it and it is no
    checkpoint of a codec; PassingError if the system refuses it; and whatever torch.load raises,
    ValueError among them, if it is damaged.
    """
    try:
        data = regular(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint: run train-level first") from None
    except OSError as error:
        raise PassingError.reading(path, error) from error
    body, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    content: dict[str, Any]
    if data[-_ZIP_END_BYTES:].startswith(b"PK\x05\x06"):
        content = _of_another_program(path)
    elif seal != _SEAL_MAGIC + xxhash.xxh3_64_digest(body):
        raise ValueError("its checksum does not match")
    else:
        refuse_inflating(body)
        content = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        refuse_expanded(content, len(body))
    # As a loop of one's own with DDP, torch.compile or an average of the weights calls its layers.
    content["model_state_dict"] = unwrapped(content["model_state_dict"])
    return content


def _of_another_program(path: Path) -> dict[str, Any]:
    """Read an archive that ends where ours has its seal: torch.save alone has written it."""
    try:
        content = read_pytorch_file(path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict) or not content.keys() >= _NEEDED:
        raise ConfigError(
            f"{path}: was not written by train-level, and does not say which levels and settings "
            "its weights are of: write it with train.runs.checkpoint.encode_checkpoint, or train "
            "with train-level"
        )
    log.warning("%s: was written by another program, without a checksum to compare", path)
    return content
