"""extract-features --dry-run: bytes are the real ones, advice holds, nothing is left behind."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import extract.features.pipeline
from data.cache.manifest import Manifest
from data.cache.plan import level_bytes, samples_by_bucket, units_of
from extract.dry_run.estimate import estimate
from extract.dry_run.timing import Speed, part_of
from tests.data.cache.test_plan import PLANS
from tests.support.extraction import (
    TinyCache,
    error_of,
    fingerprints,
    must_extract,
    plan_of,
    run_extract,
    stored_values,
)
from tests.support.extraction_process import start_extraction

DiskUsage = namedtuple("DiskUsage", "total used free")  # as shutil's own, which has no public name


def set_free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: DiskUsage(10 * free, 9 * free, free))


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the extraction that a dry run times: it takes most of it."""
    speed = Speed(images_per_s=1.0, write_bytes_per_s=1.0)
    monkeypatch.setattr("extract.dry_run.estimate.measure_speed", lambda *_, **__: speed)


def shard_bytes(cache: TinyCache, level: int) -> int:
    return sum(path.stat().st_size for path in cache.shard_files(level))


def advice_of(output: str) -> list[str]:
    """The options that the dry run proposes, in its order."""
    return re.findall(r"^  (--.*)$", output, flags=re.MULTILINE)


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


@pytest.mark.usefixtures("untimed")
def test_verdict_is_about_what_is_not_there_yet(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(zarr_cache.folder, tmp_path / "train")
    shard = max(zarr_cache.shard_files(0), key=lambda path: path.stat().st_size)
    num_bytes = shard.stat().st_size
    (tmp_path / "train" / shard.relative_to(zarr_cache.folder)).unlink()
    for free, fits in ((3 * num_bytes, True), (num_bytes // 2, False)):
        set_free_bytes(monkeypatch, free)
        output = run_extract(zarr_cache.config, tmp_path, "--dry-run").output
        assert "of the images are there already, " in output
        assert ("does not fit: free space" not in output) is fits
        assert advice_of(output) == []
    set_free_bytes(monkeypatch, num_bytes // 2)
    assert "needs" in error_of(run_extract(zarr_cache.config, tmp_path))


@pytest.mark.usefixtures("untimed")
def test_verdict_on_a_split_leaves_room_for_those_before_it(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {}
    for split in ("train", "val"):
        manifest, _ = plan_of(zarr_cache.config, split)
        sizes[split] = sum(level_bytes(manifest, level.index) for level in manifest.levels)
    for share, fits in ((1.1, True), (0.9, False)):
        set_free_bytes(monkeypatch, int(sum(sizes.values()) * share))
        output = run_extract(
            zarr_cache.config, tmp_path, "--split", "val", "--dry-run", split="train"
        ).output
        train, val = output.split("val:\n", 1)
        assert "does not fit" not in train
        assert ("does not fit" not in val) is fits


def test_folder_that_cannot_be_written_is_one_line(zarr_cache: TinyCache, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = error_of(run_extract(zarr_cache.config, tmp_path / "file" / "below", "--dry-run"))
    assert error == f"{tmp_path / 'file'}: is no folder: choose another --features"
    error = error_of(run_extract(zarr_cache.config, Path("/proc/nowhere"), "--dry-run"))
    assert error.startswith("/proc: cannot be written (")
    assert error.endswith("): free space, or choose another --features")


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(
    ("share", "options", "names"),
    [
        (
            0.7,
            ("--dtype", "float32"),
            ["--dtype", "--dtype", "--crop", "--limit", "--levels", "--set"],
        ),
        (0.55, (), ["--dtype", "--crop", "--limit", "--levels", "--set"]),
    ],
)
def test_each_proposal_lets_the_extraction_begin_and_without_it_there_is_no_room(
    zarr_cache: TinyCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    options: tuple[str, ...],
    names: list[str],
) -> None:
    float32 = 2 if "float32" in options else 1
    total = sum(stored_values(zarr_cache.folder, level).size * 2 for level in range(5)) * float32
    set_free_bytes(monkeypatch, int(total * share))
    output = run_extract(zarr_cache.config, tmp_path, "--dry-run", *options).output
    assert "\ndoes not fit; each of these alone would, the least harmful first:\n" in output
    proposals = advice_of(output)
    assert [proposal.split()[0] for proposal in proposals] == names
    error = error_of(run_extract(zarr_cache.config, tmp_path / "as it is", *options))
    assert re.search(r"needs \S+ GB, \S+ GB are free", error)
    for number, proposal in enumerate(proposals):
        must_extract(
            zarr_cache.config,
            tmp_path / str(number),
            *options,
            *shlex.split(proposal, comments=True),
        )


@pytest.mark.usefixtures("untimed")
def test_8_bits_are_proposed_with_their_bytes_which_are_half_of_float16_s_for_train_alone(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, is_proposed in (("train", True), ("val", False)):
        plan, _ = plan_of(zarr_cache.config, split)
        total = sum(level_bytes(plan, level.index) for level in plan.levels)
        set_free_bytes(monkeypatch, int(total * 0.7))
        output = run_extract(zarr_cache.config, tmp_path, "--dry-run", split=split).output
        assert (f"  --dtype uint8  # {total / 2 / 1e6:.3f} MB\n" in output) is is_proposed


def test_bytes_and_files_of_8_bits_are_those_of_the_real_cache(
    byte_cache: TinyCache, tmp_path: Path
) -> None:
    options = ("--container", byte_cache.container, "--dtype", "uint8")
    output = run_extract(byte_cache.config, tmp_path, "--dry-run", *options).output
    values = sum(level_bytes(byte_cache.manifest, level) for level in range(5))
    files = [path for path in byte_cache.folder.rglob("*") if path.is_file()]
    assert f"{values / 1e6:.3f} MB in 17 shards; {len(files)} files, " in output


@pytest.mark.usefixtures("untimed")
def test_a_little_more_than_a_proposal_would_not_fit(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(stored_values(zarr_cache.folder, level).size * 2 for level in range(5))
    set_free_bytes(monkeypatch, int(total * 0.55))
    proposals = dict(
        shlex.split(proposal, comments=True) for proposal in
        advice_of(run_extract(zarr_cache.config, tmp_path, "--dry-run").output)
        if not proposal.startswith("--set")
    )  # fmt: skip
    for option, value in (("--limit", 1), ("--crop", 16)):
        more = str(int(proposals[option]) + value)
        error = error_of(run_extract(zarr_cache.config, tmp_path / option, option, more))
        assert "GB are free" in error


@pytest.mark.usefixtures("untimed")
def test_room_for_exactly_what_the_extraction_asks_for_fits(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(stored_values(zarr_cache.folder, level).size * 2 for level in range(5))
    for free, fits in ((int(total * 1.01), True), (int(total * 1.01) - 1, False)):
        set_free_bytes(monkeypatch, free)
        output = run_extract(zarr_cache.config, tmp_path / "dry", "--dry-run").output
        assert ("does not fit" not in output) is fits
        assert (run_extract(zarr_cache.config, tmp_path / str(free)).exit_code == 0) is fits


@pytest.mark.usefixtures("untimed")
def test_crop_is_proposed_for_the_train_split_only(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, detector = plan_of(zarr_cache.config, "val")
    total = estimate(manifest, detector.model, tmp_path).num_bytes
    set_free_bytes(monkeypatch, int(total * 0.7))
    output = run_extract(zarr_cache.config, tmp_path, "--dry-run", split="val").output
    assert "does not fit" in output.split("val:", 1)[1]
    assert "--crop" not in output.split("val:", 1)[1]


@pytest.mark.usefixtures("untimed")
def test_fixed_size_is_made_smaller_in_both_directions(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = ("--set", "detector.resize=[96,192]")
    set_free_bytes(monkeypatch, 5_000_000)
    output = run_extract(zarr_cache.config, tmp_path, "--dry-run", *fixed).output
    (proposal,) = [each for each in advice_of(output) if each.startswith("--set")]
    height, width = map(int, re.findall(r"\d+", proposal))
    assert width == 2 * height < 192
    must_extract(zarr_cache.config, tmp_path, *proposal.split())


def test_disk_too_full_to_time_two_images_is_one_line(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_free_bytes(monkeypatch, 900_000)
    error = error_of(run_extract(zarr_cache.config, tmp_path, "--dry-run"))
    assert re.fullmatch(
        rf"{tmp_path}: 0\.001 GB are free, too little to time two images of 0\.001 GB each: "
        "free space, or choose another --features",
        error,
    )
    assert list(tmp_path.iterdir()) == []


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
