"""extract-features --dry-run: what is said to fit fits, and what is proposed where it does not."""

from __future__ import annotations

import re
import shlex
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from data.cache.plan import level_bytes
from extract.dry_run.estimate import estimate
from tests.support.extraction import (
    TinyCache,
    error_of,
    must_extract,
    plan_of,
    run_extract,
    stored_values,
)

DiskUsage = namedtuple("DiskUsage", "total used free")  # as shutil's own, which has no public name


def set_free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: DiskUsage(10 * free, 9 * free, free))


def advice_of(output: str) -> list[str]:
    """The options that the dry run proposes, in its order."""
    return re.findall(r"^  (--.*)$", output, flags=re.MULTILINE)


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
