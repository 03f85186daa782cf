"""Check a whole cache against its manifest and commits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from configs.cores import usable_cores
from configs.errors import CacheError, PassingError
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations
from data.cache.cache_folder import CacheFolder
from data.cache.channel_statistics import ChannelStatistics, statistics_path
from data.cache.commit_log import FILE_NAME as COMMITS_NAME
from data.cache.commit_log import (
    Commit,
    checksum,
    expected_checksums,
    fitting,
    hash_log,
    read_log,
)
from data.cache.containers import (
    STORES,
    Store,
    differing_metadata,
    level_arrays,
    rows_of_shard,
    shards_of,
)
from data.cache.manifest import FILE_NAME as MANIFEST_NAME
from data.cache.plan import Unit, samples_by_bucket, units_of
from data.cache.units_due import part_path
from data.verification.damage import Damage, Verification, mark_damaged


def verify_cache(cache: CacheFolder | Path | str) -> Verification:
    """Read every shard and compare each sample with its committed checksum.

    Raises CacheError if there is no cache, or its manifest is damaged, PassingError if that or the
    log cannot be read.
    """
    folder = CacheFolder.of(cache)
    manifest = folder.manifest
    try:
        log_id = hash_log(folder.path, with_plan=True)
        plan, commits = read_log(folder.path)
    except OSError as error:
        raise PassingError.reading(folder.path / COMMITS_NAME, error) from error
    check = _Check(folder, plan, commits)
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(lambda shard: check.shard(*shard), shards_of(manifest)))
    return Verification(
        manifest=manifest,
        num_shards=len(found),
        num_bytes=sum(num_bytes for num_bytes, _ in found),
        log_id=log_id,
        damages=[
            *check.plan(),
            *check.missing_commits(),
            *check.metadata(),
            *(damage for _, damages in found for damage in damages),
            *check.statistics(),
        ],
    )


def verify_and_mark(caches: Iterable[Path], tell: Callable[[str], object]) -> None:
    """Verify caches, `tell` lines of what is found, and note damage for the next extraction.

    Raises CacheError if anything is damaged, PassingError if something alone cannot be read.
    """
    damaged: list[str] = []
    are_known = False
    for cache in caches:
        start = time.monotonic()
        found = verify_cache(cache)
        rate = found.num_bytes / 1e9 / max(1e-9, time.monotonic() - start)
        read = f"{found.num_shards} shards, {found.num_bytes / 1e9:.3f} GB, {rate:.1f} GB/s"
        tell(f"{cache}: {found.verdict} ({read})")
        for line in found.lines():
            tell(f"  {line}")
        if found.damages:
            are_known |= any(damage.is_known for damage in found.damages)
            try:
                mark_damaged(cache, found)
                damaged.append(str(cache))
            except OSError as error:
                damaged.append(f"{cache} (which cannot be written: {error.strerror or error})")
    if damaged and not are_known:
        raise PassingError(
            f"cannot be checked: {', '.join(damaged)}: some files could not be read, which does "
            "not say that they are damaged: mend the cause and run the same command again"
        )
    if damaged:
        raise CacheError(
            f"damaged: {', '.join(damaged)}: run the same command without --verify, "
            "it computes only what is broken"
        )


class _Check:
    """The parts of a verification."""

    def __init__(
        self, folder: CacheFolder, plan_sha256: str | None, commits: dict[int, Commit]
    ) -> None:
        self._folder, self._cache = folder, folder.path
        self._manifest = manifest = folder.manifest
        self._plan_sha256 = plan_sha256
        self._commits = commits = fitting(commits, manifest)
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
        except PassingError as error:
            yield _unknown(path, error.__cause__)
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
            try:
                differing = differing_metadata(self._cache, self._manifest, level.index)
            except PassingError as error:
                cause = error.__cause__
                yield _unknown(Path(getattr(cause, "filename", None) or self._cache), cause)
                continue
            for path in differing:
                yield Damage(path=path, reason="missing, or differs from the manifest")

    def shard(self, level: int, bucket: int, shard: int) -> tuple[int, list[Damage]]:
        """Check one shard; return the bytes that were compared, and what is wrong."""
        manifest = self._manifest
        rows = rows_of_shard(manifest, level, bucket, shard)
        expected = self._expected[level][bucket][rows.start : rows.stop]
        store = STORES[manifest.container]
        path = store.shard_path(self._cache, manifest, level, bucket, shard)
        sample_bytes = manifest.sample_bytes(level, bucket)
        if not any(expected):
            return 0, []
        known = [row for row, wanted in enumerate(expected) if wanted]
        unreadable: OSError | None = None
        try:
            path, offsets = _offsets(
                store, path, len(rows), manifest.buckets[bucket].samples_per_shard[level],
                sample_bytes,
            )  # fmt: skip
            if store.holds_arrays(path, level_arrays(manifest, level)):
                known, unreadable = _differing_in(path, offsets.tolist(), sample_bytes, expected)
                reason = f"{len(known)} of {len(rows)} samples differ from their checksums"
            else:
                reason = "its scale or offset differs from the manifest"
        except FileNotFoundError:
            reason = "missing"
        except CacheError as error:
            reason = str(error).removeprefix(f"{path}: ")
        except OSError as error:
            known, unreadable = [], error
        damages = []
        if known:
            samples = tuple(self._by_bucket[bucket][rows.start + row] for row in known)
            damages.append(Damage(path=path, reason=reason, level=level, samples=samples))
        if unreadable is not None:
            damages.append(_unknown(path, unreadable, level))
        return len(rows) * sample_bytes, damages

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
            try:
                whole = path.is_file() and path.read_bytes() == f"{merged}\n".encode()
            except OSError as error:
                yield _unknown(path, error, level.index)
                continue
            if not whole:
                reason = "missing, or not the statistics of the commits"
                yield Damage(path=path, reason=reason, level=level.index)

    def _samples(self, unit: Unit) -> list[int]:
        return self._by_bucket[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]


def _offsets(
    store: Store, path: Path, num_samples: int, capacity: int, sample_bytes: int
) -> tuple[Path, NDArray[Any]]:
    """Return the file in which a shard's committed samples are, and each one's byte offset.

    Until a shard is written, or mended, that is its part file. An extraction may give it its real
    name between two looks, never the other way round.
    """
    part = part_path(path)
    with suppress(FileNotFoundError):
        return part, store.shard_offsets(part, num_samples, capacity, sample_bytes)
    return path, store.shard_offsets(path, num_samples, capacity, sample_bytes)


def _unknown(path: Path, error: BaseException | None, level: int | None = None) -> Damage:
    reason = (
        f"cannot be read ({getattr(error, 'strerror', None) or error}), nothing is known of it: "
        "check it again, or remove the file if it never can be"
    )
    return Damage(path=path, reason=reason, level=level, is_known=False)


def _differing_in(
    path: Path, starts: Sequence[int], num_bytes: int, expected: Sequence[int | None]
) -> tuple[list[int], OSError | None]:
    """Return which samples of a file differ from their checksums, and an error of reading others.

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
                unreadable = error
                continue
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
