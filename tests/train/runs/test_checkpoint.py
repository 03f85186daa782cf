"""What a checkpoint that cannot be read leads to: never to another one, nor to a new run."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from configs.errors import PassingError
from tests.support.refused_files import refuse_to_open
from train.runs.checkpoint import (
    BEST_NAME,
    LAST_NAME,
    PREVIOUS_NAME,
    load_last,
    load_weights,
    read_checkpoint,
)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_checkpoint_that_cannot_be_read_for_now_is_neither_passed_over_nor_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """To go on from the one before it would replace what is whole."""
    for name in (LAST_NAME, PREVIOUS_NAME, BEST_NAME):
        (tmp_path / name).write_bytes(b"whole, for all that is known")
    refuse_to_open(monkeypatch, number, lambda path, _: path.suffix == ".pth")
    with pytest.raises(PassingError, match=LAST_NAME):
        load_last(tmp_path)
    for read in (load_weights, read_checkpoint):
        with pytest.raises(PassingError, match=rf"{BEST_NAME}: cannot be read"):
            read(tmp_path / BEST_NAME)
