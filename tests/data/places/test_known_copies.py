from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import MachineError
from data.places.known_copies import FileState, Known, KnownCopies

ONE = Known("1", FileState(3, 5))


def test_table_that_meets_a_full_disk_is_one_line_and_what_it_knew_stays(tmp_path: Path) -> None:
    known = KnownCopies(tmp_path)
    known.note("s3://b/x/one", ONE)
    known._table.execute("PRAGMA max_page_count=1")  # as a disk without room for another page
    with pytest.raises(MachineError) as caught:
        known.note("s3://b/x/" + "long" * 5000, ONE)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/copies.sqlite: cannot be read or written (database or disk")
    assert "choose another --local-cache" in line
    again = KnownCopies(tmp_path)  # as the next command opens it
    assert again.below("s3://b/x") == {"one": ONE}
    again.note("s3://b/x/" + "long" * 5000, ONE)
    assert len(again.below("s3://b/x")) == 2


def test_table_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "copies.sqlite").mkdir()
    with pytest.raises(MachineError, match=r"copies\.sqlite: cannot be read or wr.*unable to"):
        KnownCopies(tmp_path)
