"""What the commits say a level's samples must hash to, and which stored samples do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import xxhash
from numpy.typing import NDArray

from data.cache.commit_log import Commit
from data.cache.manifest import Manifest
from data.cache.plan import units_of


def checksum(content: Any) -> int:
    """Return the XXH3-64 of a contiguous buffer."""
    return xxhash.xxh3_64_intdigest(content)


def expected_checksums(
    manifest: Manifest, commits: Mapping[int, Commit], level: int
) -> list[list[int | None]]:
    """Return per bucket and row the checksum that was committed; None where there is none."""
    expected: list[list[int | None]] = [[None] * b.num_samples for b in manifest.buckets]
    for unit in units_of(manifest):
        commit = commits.get(unit.index)
        if commit is not None and level in commit.checksums and level not in commit.damaged:
            sums = [int(text, 16) for text in commit.checksums[level]]
            expected[unit.bucket][unit.first_row : unit.first_row + unit.num_rows] = sums
    return expected


def differing_rows(
    memory: NDArray[Any], starts: Iterable[int], num_bytes: int, expected: Iterable[int | None]
) -> list[int]:
    """Return the positions of samples (uint8 `memory`, `num_bytes` from each start) that differ.

    A sample without an expected checksum is not looked at.
    """
    return [
        position
        for position, (start, wanted) in enumerate(zip(starts, expected, strict=True))
        if wanted is not None and checksum(memory[start : start + num_bytes].data) != wanted
    ]
