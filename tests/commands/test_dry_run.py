"""extract-features --dry-run: bytes are the real ones, and nothing is left behind."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import extract.features.pipeline
from data.cache.manifest import Manifest
from data.cache.plan import level_bytes, samples_by_bucket, units_of
from extract.dry_run.estimate import estimate
from extract.dry_run.timing import part_of
from tests.data.cache.test_plan import PLANS
from tests.support.extraction import (
    TinyCache,
    error_of,
    fingerprints,
    plan_of,
    run_extract,
    stored_values,
)
from tests.support.extraction_process import start_extraction


def shard_bytes(cache: TinyCache, level: int) -> int:
    return sum(path.stat().st_size for path in cache.shard_files(level))


@pytest.mark.usefixtures("untimed")
def test_bytes_files_and_shards_are_those_of_the_real_cache(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    options = ("--container", tiny_cache.container)
    result = run_extract(tiny_cache.config, tmp_path, "--dry-run", *options)
    assert result.exit_code == 0, result.output
    shards = [len(tiny_cache.shard_files(level)) for level in range(5)]
    sizes = [stored_values(tiny_cache.folder, level).size * 2 for level in range(5)]
    for level in range(5):
        shown = f"{sizes[level] / 1e6:.3f} MB"
        share = f"{sizes[level] / sum(sizes):.1%}"
        line = f"{level:>5} {4 * 2**level:>6} {shown:>12} {share:>7} {shards[level]:>7}\n"
        assert line in result.output
    files = [path for path in tiny_cache.folder.rglob("*") if path.is_file()]
    total = f"{sum(sizes) / 1e6:.3f} MB"
    assert f"8 images in 3 buckets, {total} in 21 shards; {len(files)} files, " in result.output


@pytest.mark.usefixtures("untimed")
def test_bytes_on_disk_are_exact_for_zarr_and_within_a_kilobyte_a_shard_for_hdf5(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    manifest, detector = tiny_cache.manifest, plan_of(tiny_cache.config)[1]
    foreseen = estimate(manifest, detector.model, tmp_path)
    real = sum(shard_bytes(tiny_cache, level) for level in range(5))
    if tiny_cache.container == "zarr":
        assert foreseen.disk_bytes == real
        index = sum(
            16 * bucket.samples_per_shard[level] + 4
            for bucket in manifest.buckets
            for level in range(5)
            for _ in range(bucket.num_shards(level))
        )
        assert foreseen.disk_bytes == foreseen.num_bytes + index
    else:
        assert 0 <= real - foreseen.disk_bytes <= 21 * 1024
        assert 0 < foreseen.disk_bytes - foreseen.num_bytes <= 21 * 8192


def test_speed_and_duration_are_shown(zarr_cache: TinyCache, tmp_path: Path) -> None:
    output = run_extract(zarr_cache.config, tmp_path, "--dry-run").output
    found = re.search(
        r"^measured: ([\d.]+) images/s, the disk writes (\d+) MB/s; about (\d+) s$",
        output,
        flags=re.MULTILINE,
    )
    assert found is not None, output
    assert float(found[1]) > 0
    assert int(found[3]) == pytest.approx(8 / float(found[1]), abs=0.6, rel=0.01)


@pytest.mark.usefixtures("untimed")
def test_nodes_are_told_apart_by_whether_they_share_a_disk(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    num_units = len(units_of(zarr_cache.manifest))
    num_bytes = sum(level_bytes(zarr_cache.manifest, level) for level in range(5))
    line = run_extract(
        zarr_cache.config, tmp_path, "--dry-run", "--nodes", "3"
    ).output.splitlines()[-1]
    assert num_units > 3, "or not all nodes would be used"
    assert line == (
        f"3 x 1 such devices on 3 nodes: about {num_bytes / 3 / 3600:.2f} h (nodes' links), if "
        "each node has such a disk, 0.00 GB/s in all; "
        f"about {num_bytes / 3600:.2f} h (common store), if all write to this one"
    )
    earnest = run_extract(zarr_cache.config, tmp_path, "--nodes", "3")
    assert error_of(earnest) == "--nodes: only foretells: use it with --dry-run"


def test_nothing_remains_on_disk_and_a_folder_that_is_not_there_is_not_made(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    assert run_extract(zarr_cache.config, tmp_path / "not" / "there", "--dry-run").exit_code == 0
    assert list(tmp_path.iterdir()) == []
    before = fingerprints(zarr_cache.folder)
    assert run_extract(zarr_cache.config, zarr_cache.folder.parent, "--dry-run").exit_code == 0
    assert fingerprints(zarr_cache.folder) == before
    assert not list(zarr_cache.folder.glob(".*"))


def test_nothing_remains_after_an_interruption_by_the_keyboard(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = extract.features.pipeline.start_maps
    seen = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        seen.extend(tmp_path.rglob("*.part"))
        if seen:
            raise KeyboardInterrupt
        return compute(*arguments, **options)

    monkeypatch.setattr(extract.features.pipeline, "start_maps", interrupted)
    result = run_extract(zarr_cache.config, tmp_path, "--dry-run", "--batch-size", "1")
    assert result.exit_code == 1
    assert seen
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_dry_run_has_left_is_removed_by_the_next_one(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    features = tmp_path / "features"
    features.mkdir()
    killed = start_extraction(zarr_cache.config, features, tmp_path / "output", "--dry-run")
    while not list(features.glob(".dry-run-*")):
        assert killed.is_alive(), (tmp_path / "output").read_text()
        time.sleep(0.001)
    killed.kill()
    killed.join()
    assert list(features.glob(".dry-run-*"))
    of_others = features / f".dry-run-{socket.gethostname()}-{os.getpid()}-x"
    elsewhere = features / ".dry-run-another-host-1234567-x"
    for folder in (of_others, elsewhere):
        folder.mkdir()
    assert run_extract(zarr_cache.config, features, "--dry-run").exit_code == 0
    assert sorted(features.iterdir()) == sorted([of_others, elsewhere])


def test_folder_that_cannot_be_written_is_one_line(zarr_cache: TinyCache, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = error_of(run_extract(zarr_cache.config, tmp_path / "file" / "below", "--dry-run"))
    assert error == f"{tmp_path / 'file'}: is no folder: choose another --features"
    error = error_of(run_extract(zarr_cache.config, Path("/proc/nowhere"), "--dry-run"))
    assert error.startswith("/proc: cannot be written (")
    assert error.endswith("): free space, or choose another --features")


def test_bytes_and_files_of_8_bits_are_those_of_the_real_cache(
    byte_cache: TinyCache, tmp_path: Path
) -> None:
    options = ("--container", byte_cache.container, "--dtype", "uint8")
    output = run_extract(byte_cache.config, tmp_path, "--dry-run", *options).output
    values = sum(level_bytes(byte_cache.manifest, level) for level in range(5))
    files = [path for path in byte_cache.folder.rglob("*") if path.is_file()]
    assert f"{values / 1e6:.3f} MB in 17 shards; {len(files)} files, " in output


@given(manifest=PLANS, step=st.integers(min_value=1, max_value=9))
def test_part_of_a_plan_is_a_plan_whose_units_are_no_larger(manifest: Manifest, step: int) -> None:
    part = part_of(manifest, list(manifest.samples[::step]))
    assert [sample.file for sample in part.samples] == [s.file for s in manifest.samples[::step]]
    for bucket, members in zip(part.buckets, samples_by_bucket(part), strict=True):
        assert bucket.num_samples == len(members) > 0
        assert [part.samples[index].row for index in members] == list(range(len(members)))
    units = units_of(part)
    assert sum(unit.num_rows for unit in units) == len(part.samples)
    assert len(units) >= min(4, len(part.samples))
    assert max(u.num_rows for u in units) <= max(u.num_rows for u in units_of(manifest))
    for unit in units:
        last = unit.first_row + unit.num_rows - 1
        for count in part.buckets[unit.bucket].samples_per_shard.values():
            assert unit.first_row // count == last // count
