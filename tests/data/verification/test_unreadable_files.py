"""What the system does not give for now is named, and is no damage."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import h5py
import pytest

from configs.errors import PassingError
from data.cache.commit_log import read_commits
from data.cache.containers import STORES
from data.cache.units_due import levels_due
from data.reading.level_reader import LevelReader
from data.verification.check import verify_cache
from tests.support.damaged_caches import (
    extract,
    flip,
)
from tests.support.extraction import TinyCache, error_of, fingerprints
from tests.support.refused_files import refuse_to_open


@pytest.mark.parametrize("number", [errno.EIO, errno.EINTR, errno.ESTALE])
def test_bytes_that_the_system_does_not_give_are_named_and_never_marked_as_damaged(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A bad sector looks like a network disk that has gone away for a moment."""
    path = max(copied.shard_files(4), key=lambda shard: shard.stat().st_size)
    inode, preadv, asked = path.stat().st_ino, os.preadv, []
    before = fingerprints(copied.folder)

    def failing(handle: int, buffers: list[memoryview], offset: int) -> int:
        if os.fstat(handle).st_ino == inode:
            asked.append(offset)
            if offset == min(asked):
                raise OSError(number, os.strerror(number))
        return preadv(handle, buffers, offset)

    with monkeypatch.context() as broken:
        broken.setattr(os, "preadv", failing)
        error = error_of(extract(copied, "--verify"))
        (damage,) = verify_cache(copied.folder).damages
    assert len(asked) > 2, "the others are read all the same"
    assert error.startswith(f"cannot be checked: {copied.folder}: some files could not be read")
    assert (damage.path, damage.samples, damage.is_known) == (path, (), False)
    assert damage.reason.startswith(f"cannot be read ({os.strerror(number)}), nothing is known")
    assert fingerprints(copied.folder) == before
    assert extract(copied, "--verify").exit_code == 0


def test_what_is_damaged_is_marked_beside_what_cannot_be_read(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(copied, 0)
    refused = copied.shard_files(2)[0]
    store = STORES[copied.container]
    shard_offsets = store.shard_offsets

    def too_many(shard: Path, *others: int) -> Any:
        if shard == refused:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return shard_offsets(shard, *others)

    with monkeypatch.context() as busy:
        busy.setattr(store, "shard_offsets", too_many)
        result = extract(copied, "--verify")
    assert error_of(result).startswith(f"damaged: {copied.folder}: ")
    assert f"level 2, {refused}: cannot be read (Too many open files)" in result.output
    marked = {commit.damaged for commit in read_commits(copied.folder).values()}
    assert marked == {frozenset(), frozenset({0})}
    LevelReader(copied.folder, 2).close()


@pytest.mark.parametrize("lock", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_shard_that_another_process_has_open_is_whole(copied: TinyCache, lock: int) -> None:
    """HDF5 locks what it opens, and refuses what somebody else has locked."""
    with copied.shard_files(1)[0].open("rb") as somebody:
        fcntl.flock(somebody, lock)
        assert verify_cache(copied.folder).damages == []
        assert not any(
            levels_due(copied.folder, copied.manifest, read_commits(copied.folder)).values()
        )
        LevelReader(copied.folder, 1).close()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE, errno.EIO, errno.ENOLCK])
def test_refusal_by_the_system_is_never_a_damaged_shard(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """However the container's library words it, nobody computes anything anew for it."""
    text = f"unable to lock file, errno = {number}, error message = '...'"
    kinds = [OSError(number, text), RuntimeError(text)]

    def refuse(*_: Any, **__: Any) -> Any:
        raise kinds[0]

    manifest, commits = tiny_cache.manifest, read_commits(tiny_cache.folder)
    if tiny_cache.container == "hdf5":
        monkeypatch.setattr(h5py, "File", refuse)
    else:
        refuse_to_open(monkeypatch, number, lambda path, _: path.name.startswith("c."))
    for _ in kinds:
        with pytest.raises(PassingError, match=rf"cannot be read \({os.strerror(number)}\)"):
            LevelReader(tiny_cache.folder, 1)
        with pytest.raises(PassingError, match=os.strerror(number)):
            levels_due(tiny_cache.folder, manifest, commits)
        found = verify_cache(tiny_cache.folder).damages
        assert len(found) == sum(len(tiny_cache.shard_files(level)) for level in range(5))
        assert not any(damage.is_known or damage.samples for damage in found)
        kinds.reverse()


@pytest.mark.parametrize("name", ["manifest.json", "commits.jsonl", "annotations.json"])
def test_side_file_that_cannot_be_read_for_now_is_not_damaged_nor_replaced(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = fingerprints(copied.folder)

    def is_refused(path: Path, mode: str) -> bool:
        return path.name.endswith(name) and "w" not in mode

    with monkeypatch.context() as broken:
        refuse_to_open(broken, errno.EIO, is_refused)
        for options in (("--verify",), ("--overwrite", "--dtype", "float32")):
            if name == "annotations.json" and "--overwrite" in options:
                continue  # written anew each time
            error = error_of(extract(copied, *options))
            assert not error.startswith("damaged: ")
            assert "(Input/output error)" in error or error.startswith("cannot be checked: ")
    assert fingerprints(copied.folder) == before
