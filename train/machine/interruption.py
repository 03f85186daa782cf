"""What may stop a run that is not its fault: a signal, a full disk, full memory, no compiler."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import ConfigError, MachineError, StoppedError, lack_of_memory
from configs.schema.training import TrainingConfig


class TrainingInterruptedError(StoppedError):
    """A run was stopped by a signal after it had saved its state."""


class MemoryLackError(MachineError):
    """Memory does not suffice."""


_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
_EITHER_WAY = (errno.EIO, errno.ESTALE)


@contextmanager
def clear_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a disk that takes or gives no more into a line; what was saved before stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        what = "read or written" if error.errno in _EITHER_WAY else "written"
        raise MachineError(
            f"{error.filename or folder}: cannot be {what} ({error.strerror}): make room, or mend "
            "the disk; the same command goes on from the last checkpoint"
        ) from error


@contextmanager
def clear_out_of_memory(advice: str) -> Iterator[None]:
    """Turn a lack of memory into a line that says what to do: `advice`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (lack := lack_of_memory(error)) is None:
            raise
        raise MemoryLackError(f"out of memory: {advice}: {lack}") from error


def batches_need_less(settings: TrainingConfig) -> str:
    """Say what to do if the memory does not suffice for a training batch."""
    crop = f"lower training.crop ({settings.crop})" if settings.crop else "set training.crop (64)"
    return f"lower training.batch_size ({settings.batch_size}) or {crop}"


@contextmanager
def clear_compile_errors(settings: TrainingConfig) -> Iterator[None]:
    """Turn a machine that cannot compile the transforms into a line for the user."""
    try:
        yield
    except Exception as error:
        if not settings.compile or not _is_of_the_compiler(error):
            raise
        first_line = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"training.compile: the transforms cannot be compiled here ({first_line}): install a "
            "C++ compiler, or leave it out (--set training.compile=false)"
        ) from error


def _is_of_the_compiler(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # late: takes a while to import

    return isinstance(error, TorchDynamoException)
