"""A store that fails in passing: what is read and written through it is right all the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from configs.errors import ConfigError
from data.places.object_store import RemoteFolder
from data.reading.level_reader import LevelReader
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.object_server import ObjectServer
from tests.support.remote_caches import opened, send_maps
from tests.support.small_caches import random_maps

MAPS = random_maps([(8, 12)] * 40, num_channels=16, seed=0)


@pytest.fixture
def through(object_server: ObjectServer, bucket_url: str, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """What makes the environment lead through a faulty store to the test's bucket."""

    @contextmanager
    def lead(fault: Callable[[int, str], Fault | None]):  # type: ignore[no-untyped-def]
        store = FaultyStore(object_server.endpoint, fault)
        with store.started() as endpoint, monkeypatch.context() as patched:
            patched.setenv("AWS_ENDPOINT_URL", endpoint)
            patched.setattr("data.places.object_store.RETRY_TIME_S", 30.0)
            yield store

    return lead


def read_all(copy: Path) -> None:
    with LevelReader(copy, 0) as reader:
        for index, values in enumerate(MAPS):
            np.testing.assert_array_equal(reader.sample(index), values)


@pytest.mark.parametrize("kind", ["500", "slow", "dropped"])
def test_cache_is_written_and_read_right_though_every_third_answer_is_bad(
    kind: Fault,
    through,
    bucket_url: str,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    with through(lambda number, _: kind if number % 3 == 2 else None) as store:
        send_maps(bucket_url, tmp_path / "sender", MAPS)
        num_written = store.injected[kind]
        read_all(opened(bucket_url, tmp_path / "reader"))
        assert store.injected[kind] > num_written > 0


def test_part_of_a_large_shard_that_fails_is_sent_again(
    through,
    bucket_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    content = np.random.default_rng(0).bytes(11 * 2**20)
    path = tmp_path / "file"
    path.write_bytes(content)
    monkeypatch.setattr("data.places.object_store.PART_BYTES", 5 * 2**20)
    with through(lambda number, _: (None, "500", "dropped")[number % 3]) as store:
        RemoteFolder(bucket_url).put("file", path)
        assert min(store.injected["500"], store.injected["dropped"]) > 0
    assert RemoteFolder(bucket_url).get("file") == content


def test_store_that_goes_away_for_ten_seconds_is_waited_for(
    through,
    bucket_url: str,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    begun: list[float] = []

    def goes_away(number: int, _: str) -> Fault | None:
        if number < 12:
            return None
        begun.append(time.monotonic())
        return "away" if time.monotonic() - begun[0] < 10 else None

    send_maps(bucket_url, tmp_path / "sender", MAPS)
    with through(goes_away) as store:
        read_all(opened(bucket_url, tmp_path / "reader"))
        assert time.monotonic() - begun[0] > 10
        assert store.injected["away"] > 0


def test_wrong_credentials_are_one_line(through, bucket_url: str) -> None:  # type: ignore[no-untyped-def]
    said = r"refuses to read with these credentials: set AWS_ACCESS_KEY_ID and .*SignatureDoesNot"
    with through(lambda *_: "forbidden"), pytest.raises(ConfigError, match=said):
        RemoteFolder(bucket_url).get("a")
