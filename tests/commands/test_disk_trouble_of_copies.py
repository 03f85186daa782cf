"""Disk trouble where copies of a remote cache lie: one line, and what is read afterwards is right.

No file may be left that would pass for a whole shard: it would be sent in the place of one.
"""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from configs.errors import ConfigError, MachineError, UserError
from configs.options import FeaturesPlace
from data.cache.manifest import Manifest
from data.reading.level_reader import LevelReader
from data.remote.held_shard import held_path
from data.remote.opening import features_root
from data.remote.sending import sending
from tests.support.failing_disk import MOMENTS, Moment, failing_disk, meets, temporary
from tests.support.remote_caches import bucket_in, opened, send_maps
from tests.support.small_caches import random_maps, write_maps

MAPS = random_maps([(8, 12)] * 10, num_channels=16, seed=0)
BOUND = 32 * MAPS[0].nbytes  # so little that each sample has somebody look for room


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket; its objects are files that no failing disk of ours has."""
    return bucket_in(tmp_path / "objects", monkeypatch)


def read_all(url: str, machine: Path) -> None:
    with LevelReader(opened(url, machine, max_bytes=BOUND), 0) as reader:
        for index, values in enumerate(MAPS):
            np.testing.assert_array_equal(reader.sample(index), values)


# Of a copy that is read: what is written, in the order of the first time.
OF_A_COPY: dict[str, tuple[Moment, ...]] = {
    "opening.lock": ("open",),
    "remote.json.*.part": MOMENTS,
    "manifest.json.*.part": MOMENTS,
    "zarr.json.*.part": MOMENTS,
    "commits.jsonl": ("open",),
    "commits.jsonl.*.part": MOMENTS,
    "c.0.0.0.0.new": ("open", "rename"),
    "c.0.0.0.0.held.*.part": MOMENTS,
    "c.0.0.0.0": ("open", "write"),
    "c.0.0.0.0.held": ("open",),
    "making-room.lock": ("open",),
}


def test_copy_that_meets_trouble_at_each_file_is_read_right_afterwards(
    url: str, tmp_path: Path
) -> None:
    send_maps(url, tmp_path / "sender", MAPS)
    full = [(each, moment, errno.ENOSPC) for each in OF_A_COPY for moment in OF_A_COPY[each]]
    broken = [(each, moments[-1], errno.EIO) for each, moments in OF_A_COPY.items()]
    for pattern, moment, number in full + broken:
        here = tmp_path / f"{pattern} {moment} {number}"
        line = meets(
            pattern, moment, lambda here=here: read_all(url, here), MachineError, number=number
        )
        assert str(here) in line
        assert "cache" in line.split(": ", 1)[1], "names the option that helps"
        assert temporary(here) == []
        assert all(held_path(shard).exists() for shard in here.rglob("c.?.0.0.0"))
        read_all(url, here)


@pytest.mark.parametrize("moment", MOMENTS)
def test_shard_that_was_sent_but_could_not_be_noted_is_sent_again(
    url: str, tmp_path: Path, moment: Moment
) -> None:
    copy = write_maps(opened(url, tmp_path / "here", writing=True), MAPS)
    with (
        failing_disk("c.0.0.0.0.held.*.part", moment) as disk,
        pytest.raises(OSError, match="No space left"),  # extraction makes a line of it
        sending(copy, Manifest.load(copy)),
    ):
        pass
    assert disk.met
    opened(url, tmp_path / "here", writing=True)
    with sending(copy, Manifest.load(copy)):
        pass
    read_all(url, tmp_path / "there")


def test_disk_that_takes_nothing_is_not_said_to_have_no_holes(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = FeaturesPlace(given=url, local_cache=str(tmp_path), local_cache_gb=1)

    def open_it(kind: type[UserError]) -> str:
        with pytest.raises(kind) as caught:
            features_root(place, Path(), ["small"])
        return str(caught.value)

    with failing_disk("probe-*", "open"):
        assert open_it(MachineError).endswith("make room, or choose another --local-cache")
    monkeypatch.setattr("data.system.array_files._fallocate", None)
    assert "cannot hold parts of files" in open_it(ConfigError)
    assert not list(tmp_path.glob("probe-*"))
