"""Space on the disk is taken before it is needed, where the system can do that."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from configs.doors import PACKAGES
from data.system.array_files import give_space_back, take_space

ROOT = Path(__file__).parents[3]
WRITTEN_THROUGH = re.compile(r"memmap\((?![^)]*mode=\"r\")|PROT_WRITE|mmap_mode=\"[rw]\+")


@pytest.mark.parametrize("number", [None, errno.EOPNOTSUPP, errno.EINVAL])
def test_space_is_taken_where_the_system_can_and_nothing_fails_where_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(2**16)
        take_space(file.fileno(), 2**16)
        assert os.fstat(file.fileno()).st_blocks * 512 >= 2**16

        def refuse(*_: int) -> None:
            raise OSError(number, "refused")

        if number is None:
            monkeypatch.delattr(os, "posix_fallocate")  # as on macOS
        else:
            monkeypatch.setattr(os, "posix_fallocate", refuse)
        take_space(file.fileno(), 2**17)


def test_full_disk_shows_when_space_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="No space"):
        take_space(file.fileno(), 10)


def test_no_file_is_written_through_a_mapping() -> None:
    """On a full disk, or a network disk that is away, that ends the process without a word."""
    assert WRITTEN_THROUGH.search('np.memmap(file, dtype=dtype, mode="w+", shape=(n,))')
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(sources) > 100
    assert not [path for path in sources if WRITTEN_THROUGH.search(path.read_text("utf-8"))]


def test_hole_in_a_file_gives_its_space_back_and_reads_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2**18)
    before = path.stat().st_blocks
    with path.open("r+b") as file:
        give_space_back(file.fileno(), 1000, 2**17)
    assert (before - path.stat().st_blocks) * 512 >= 2**17 - 2 * 4096
    assert path.read_bytes() == b"x" * 1000 + bytes(2**17) + b"x" * (2**17 - 1000)
