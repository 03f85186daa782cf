"""A cache in an object store against its client alone, both at a server on this machine.

moto's S3 interface runs in a process of its own, and answers in Python: rates say nothing of a real
store. Reading: shuffled batches of 8 whole maps, nothing of them here, against one ranged GET for
each map, 32 at once. Writing: shards that are whole, with all that belongs to them, against a
multipart PUT of each.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from data.cache.manifest import Manifest
from data.images.records import ImageSet
from data.places.object_store import RemoteFolder
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from data.remote.local_room import LocalRoom
from data.remote.opening import open_copies
from data.remote.sending import sending
from tests.benchmarks.report import Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians, timed
from tests.benchmarks.synthetic_cache import lay_out_cache, plan_cache, shard_files
from tests.support.object_server import ObjectServer

SIZES = {"fine, 64x64": (96, (64, 64)), "coarse, 8x8": (1536, (8, 8))}
SHARD_MEGABYTES = 32
BATCH_SIZE = 8
AT_ONCE = 32
ROUNDS = 5
_OURS, _BARE = "ours", "bare client"


def run(folder: Path) -> list[Table]:
    """Measure reading and writing of fine and of coarse maps."""
    with _server() as server:
        os.environ.update(server.environment())
        return [
            table
            for title, (num, shape) in SIZES.items()
            for table in _measure(title, server.new_bucket(), folder / title[:4], num, shape)
        ]


def _measure(
    title: str, url: str, folder: Path, num_samples: int, shape: tuple[int, int]
) -> Iterator[Table]:
    manifest, images = plan_cache(num_samples, {0: shape}, shard_megabytes=SHARD_MEGABYTES)
    num_bytes = num_samples * manifest.sample_bytes(0, 0)
    lay_out_cache(folder / "written", manifest, images)
    yield _writing(title, url, folder, manifest, num_bytes)
    yield _reading(title, url, folder, manifest, images, num_bytes)


def _writing(title: str, url: str, folder: Path, manifest: Manifest, num_bytes: int) -> Table:
    remote = RemoteFolder(f"{url}/train")
    room = LocalRoom(folder / "sender", 10**12)
    shards = shard_files(folder / "written", manifest, 0)

    def empty(name: str, number: int) -> None:
        remote.delete(remote.sizes())
        shutil.rmtree(room.folder, ignore_errors=True)
        copy = open_copies(url, ["train"], room, writing=True) / "train"
        shutil.copytree(folder / "written", copy, dirs_exist_ok=True)

    def send(number: int) -> None:
        with sending(room.folder / url.replace("://", "/") / "train", manifest):
            pass

    def put(number: int) -> None:
        for path in shards:
            remote.put(path.name, path)

    found = interleaved(
        {_OURS: timed(send), _BARE: timed(put)}, rounds=ROUNDS, before=empty
    )  # fmt: skip
    empty("", 0)
    send(0)  # for those who read
    return _table(f"remote: {title}, writing {num_bytes / 1e6:.0f} MB", medians(found), num_bytes)


def _reading(
    title: str, url: str, folder: Path, manifest: Manifest, images: ImageSet, num_bytes: int
) -> Table:
    remote = RemoteFolder(f"{url}/train")
    room = LocalRoom(folder / "reader", 10**12)
    sample_bytes = manifest.sample_bytes(0, 0)
    per_shard = manifest.buckets[0].samples_per_shard[0]
    names = [
        path.relative_to(folder / "written").as_posix()
        for path in shard_files(folder / "written", manifest, 0)
    ]

    def stream(number: int) -> float:
        shutil.rmtree(room.folder, ignore_errors=True)
        with LevelReader(open_copies(url, ["train"], room) / "train", 0) as reader:
            batches = LevelStream(reader, batch_size=BATCH_SIZE, crop=None, seed=number)
            return timed(lambda _: sum(len(batch.indices) for batch in batches))(number)

    def get(number: int) -> None:
        def fetch(row: int) -> None:
            start = row % per_shard * sample_bytes
            assert len(remote.get_range(names[row // per_shard], start, sample_bytes))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(fetch, np.random.default_rng(number).permutation(len(images.records))))

    found = interleaved({_OURS: stream, _BARE: timed(get)}, rounds=ROUNDS)
    return _table(f"remote: {title}, reading {num_bytes / 1e6:.0f} MB", medians(found), num_bytes)


def _table(title: str, seconds: dict[str, float], num_bytes: int) -> Table:
    return Table(
        title=title,
        columns=["", "s", "MB/s"],
        rows=[[name, value, num_bytes / 1e6 / value] for name, value in seconds.items()],
        goals=[
            Goal(
                what="our rate / the bare client's", ratio=seconds[_BARE] / seconds[_OURS],
                at_least=0.7,
            )
        ],
    )  # fmt: skip


@contextmanager
def _server() -> Iterator[ObjectServer]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        server = ObjectServer(f"http://127.0.0.1:{port}")
        while process.poll() is None:
            with suppress(OSError):
                urlopen(server.endpoint).close()
                break
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main("remote", run)
