"""Check a whole cache against its manifest and commits; note what is damaged for the next run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from configs.cores import usable_cores
from configs.errors import CacheError
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations
from data.cache.cache_folder import CacheFolder
from data.cache.channel_statistics import ChannelStatistics, statistics_path
from data.cache.commit_log import FILE_NAME as COMMITS_NAME
from data.cache.commit_log import (
    Commit,
    CommitLog,
    checksum,
    expected_checksums,
    read_commits,
    read_log,
)
from data.cache.containers import STORES, differing_metadata, rows_of_shard, shards_of
from data.cache.manifest import FILE_NAME as MANIFEST_NAME
from data.cache.manifest import Manifest
from data.cache.plan import Unit, samples_by_bucket, units_of
from data.cache.units_due import part_path

_SHOWN_IMAGES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One file that is not what was committed; `samples` are the images concerned."""

    path: Path
    reason: str
    level: int | None = None
    samples: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a check read, and what it found."""

    manifest: Manifest
    num_shards: int
    num_bytes: int
    damages: list[Damage] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return one line for each damaged file: level, shard, what is wrong, images."""
        return [self._line(damage) for damage in self.damages]

    def _line(self, damage: Damage) -> str:
        level = "" if damage.level is None else f"level {damage.level}, "
        files = [self.manifest.samples[index].file for index in damage.samples]
        images = ", ".join(files[:_SHOWN_IMAGES])
        more = f" and {len(files) - _SHOWN_IMAGES} more" if len(files) > _SHOWN_IMAGES else ""
        return f"{level}{damage.path}: {damage.reason}" + (f": {images}{more}" if files else "")


def verify_cache(cache: CacheFolder | Path | str) -> Verification:
    """Read every shard and compare each sample with its committed checksum.

    Raises CacheError if there is no cache, or its manifest cannot be read.
    """
    folder = CacheFolder.of(cache)
    manifest = folder.manifest
    try:
        plan, commits = read_log(folder.path)
    except OSError as error:
        raise CacheError(f"{cache}: cannot be read ({error.strerror or error})") from error
    check = _Check(folder, plan, commits)
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(lambda shard: check.shard(*shard), shards_of(manifest)))
    return Verification(
        manifest=manifest,
        num_shards=len(found),
        num_bytes=sum(num_bytes for num_bytes, _ in found),
        damages=[
            *check.plan(),
            *check.missing_commits(),
            *check.metadata(),
            *(damage for _, damage in found if damage),
            *check.statistics(),
        ],
    )


def mark_damaged(cache: Path | str, found: Verification) -> bool:
    """Note the damage so that the next extraction mends it and no reader takes it for whole.

    Returns whether that was possible: a cache may lie on a read-only disk.
    """
    cache = Path(cache)
    unit_of = _unit_of_samples(found.manifest)
    damaged: dict[int, set[int]] = {}
    for damage in found.damages:
        for index in damage.samples if damage.level is not None else ():
            damaged.setdefault(unit_of[index], set()).add(damage.level or 0)
    try:
        with CommitLog(cache) as log:
            committed = read_commits(cache, statistics=False)
            log.mark_damaged({unit: at for unit, at in damaged.items() if unit in committed})
            # Without its statistics a level does not count as complete: no reader opens it.
            for level in {damage.level for damage in found.damages if damage.level is not None}:
                statistics_path(cache, level).unlink(missing_ok=True)
    except OSError:
        return False
    return True


class _Check:
    """The parts of a verification."""

    def __init__(
        self, folder: CacheFolder, plan_sha256: str | None, commits: dict[int, Commit]
    ) -> None:
        self._folder, self._cache = folder, folder.path
        self._manifest = manifest = folder.manifest
        self._plan_sha256 = plan_sha256
        self._commits = commits
        self._by_bucket = samples_by_bucket(manifest)
        self._expected = {
            level.index: expected_checksums(manifest, commits, level.index)
            for level in manifest.levels
        }

    def plan(self) -> Iterator[Damage]:
        """Compare the manifest with the commits, and the annotations with both."""
        if self._plan_sha256 is None:
            yield Damage(path=self._cache / COMMITS_NAME, reason="does not name the manifest")
        elif self._plan_sha256 != self._folder.manifest_sha256:
            yield Damage(path=self._cache / MANIFEST_NAME, reason="is not what was committed")
        path = self._cache / ANNOTATIONS_NAME
        try:
            records = read_annotations(path, self._manifest.split).records
        except CacheError as error:
            yield Damage(path=path, reason=str(error).removeprefix(f"{path}: "))
            return
        if [r.image_id for r in records] != [sample.image_id for sample in self._manifest.samples]:
            yield Damage(path=path, reason="names other images than the manifest")

    def missing_commits(self) -> Iterator[Damage]:
        """Find units that have no whole line, or are known to be damaged."""
        absent: list[int] = []
        known: list[int] = []
        for unit in units_of(self._manifest):
            samples = self._samples(unit)
            if unit.index not in self._commits:
                absent += samples
            elif self._commits[unit.index].damaged:
                known += samples
        path = self._cache / COMMITS_NAME
        if absent:
            yield Damage(path=path, reason="images not extracted yet", samples=tuple(absent))
        if known:
            yield Damage(path=path, reason="images known to be damaged", samples=tuple(known))

    def metadata(self) -> Iterator[Damage]:
        """Find metadata files that do not say what the manifest says."""
        for level in self._manifest.levels:
            for path in differing_metadata(self._cache, self._manifest, level.index):
                yield Damage(path=path, reason="missing, or differs from the manifest")

    def shard(self, level: int, bucket: int, shard: int) -> tuple[int, Damage | None]:
        """Check one shard; return the bytes that were compared, and what is wrong."""
        manifest = self._manifest
        rows = rows_of_shard(manifest, level, bucket, shard)
        expected = self._expected[level][bucket][rows.start : rows.stop]
        store = STORES[manifest.container]
        path = store.shard_path(self._cache, manifest, level, bucket, shard)
        sample_bytes = manifest.sample_bytes(level, bucket)
        if not any(expected):
            return 0, None
        if not path.exists() and part_path(path).exists():
            # The extraction has not finished: what is committed so far lies in the part file.
            path = part_path(path)
        differing = [row for row, wanted in enumerate(expected) if wanted]
        try:
            offsets = store.shard_offsets(
                path, len(rows), manifest.buckets[bucket].samples_per_shard[level], sample_bytes
            )
            differing, unreadable = _differing_in(path, offsets.tolist(), sample_bytes, expected)
            reason = f"{len(differing)} of {len(rows)} samples differ from their checksums"
            if unreadable is not None:
                reason += f", or cannot be read ({unreadable.strerror or unreadable})"
        except FileNotFoundError:
            reason = "missing"
        except CacheError as error:
            reason = str(error).removeprefix(f"{path}: ")
        except OSError as error:
            reason = f"cannot be read ({error.strerror or error})"
        samples = tuple(self._by_bucket[bucket][rows.start + row] for row in differing)
        damage = Damage(path=path, reason=reason, level=level, samples=samples)
        return len(rows) * sample_bytes, damage if samples else None

    def statistics(self) -> Iterator[Damage]:
        """Find merged statistics that are not those of the commits."""
        if any(unit.index not in self._commits for unit in units_of(self._manifest)):
            return
        for level in self._manifest.levels:
            path = statistics_path(self._cache, level.index)
            parts = [
                self._commits[unit.index].statistics[level.index]
                for unit in units_of(self._manifest)
            ]
            merged = reduce(ChannelStatistics.merged_with, parts).to_json()
            if not path.is_file() or path.read_text(encoding="utf-8") != f"{merged}\n":
                reason = "missing, or not the statistics of the commits"
                yield Damage(path=path, reason=reason, level=level.index)

    def _samples(self, unit: Unit) -> list[int]:
        return self._by_bucket[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]


def _differing_in(
    path: Path, starts: Sequence[int], num_bytes: int, expected: Sequence[int | None]
) -> tuple[list[int], OSError | None]:
    """Return which samples of a file differ from their checksums, and an error of reading one.

    They are read into memory: of a mapped file a bad sector would kill the process.
    """
    differing: list[int] = []
    unreadable = None
    memory = memoryview(bytearray(num_bytes))
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        for row, (start, wanted) in enumerate(zip(starts, expected, strict=True)):
            if wanted is None:
                continue
            try:
                whole = _fill(memory, file.fileno(), start)
            except OSError as error:
                unreadable, whole = error, False
            if not whole or checksum(memory) != wanted:
                differing.append(row)
    return differing, unreadable


def _fill(memory: memoryview, handle: int, start: int) -> bool:
    """Read a file from `start` on until the memory is full; False if it ends before."""
    done = 0
    while done < len(memory):
        count = os.preadv(handle, [memory[done:]], start + done)
        if not count:
            return False
        done += count
    return True


def _unit_of_samples(manifest: Manifest) -> dict[int, int]:
    """Return sample -> unit."""
    by_bucket = samples_by_bucket(manifest)
    return {
        index: unit.index
        for unit in units_of(manifest)
        for index in by_bucket[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]
    }
