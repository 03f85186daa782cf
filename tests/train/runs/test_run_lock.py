"""Two processes never train one run."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from configs.errors import UserError
from train.runs.run_lock import locked


def test_run_is_held_by_one_process_though_the_lock_is_let_go_while_another_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that the second has opened is then the lock of nobody."""
    flock, done = fcntl.flock, []
    first = locked(tmp_path)
    first.__enter__()

    def after_the_first(handle: int, kind: int) -> None:
        if not done:
            done.append(first.__exit__(None, None, None))
        flock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", after_the_first)
    with (
        locked(tmp_path),
        pytest.raises(UserError, match="another process trains"),
        locked(tmp_path),
    ):
        raise AssertionError("two processes hold one run")
    assert not list(tmp_path.iterdir())
