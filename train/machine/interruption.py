"""What may stop a run that is not its fault: a signal, a full disk, full memory, no compiler."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from configs.errors import ConfigError, MachineError, StoppedError
from configs.schema.training import TrainingConfig


class TrainingInterruptedError(StoppedError):
    """A run was stopped by a signal after it had saved its state."""


_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


@contextmanager
def clear_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a disk that takes no more into a line for the user; what was saved before stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise MachineError(
            f"{folder}: cannot be written ({error.strerror}): make room, or mend the disk; the "
            "same command goes on from the last checkpoint"
        ) from error


@contextmanager
def clear_out_of_memory(settings: TrainingConfig) -> Iterator[None]:
    """Turn a lack of memory into a line that says which setting to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError.
        text = str(error)
        if isinstance(error, RuntimeError) and not (
            isinstance(error, torch.OutOfMemoryError)
            or "can't allocate memory" in text
            or "out of memory" in text
        ):
            raise
        crop = f" or training.crop ({settings.crop})" if settings.crop else ""
        raise MachineError(
            f"out of memory: lower training.batch_size ({settings.batch_size}){crop}: "
            f"{text.splitlines()[0] if text else type(error).__name__}"
        ) from error


@contextmanager
def clear_compile_errors(settings: TrainingConfig) -> Iterator[None]:
    """Turn a machine that cannot compile the transforms into a line for the user."""
    if not settings.compile:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # late: takes a while to import

    try:
        yield
    except TorchDynamoException as error:
        first_line = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"training.compile: the transforms cannot be compiled here ({first_line}): install a "
            "C++ compiler, or leave it out (--set training.compile=false)"
        ) from error
