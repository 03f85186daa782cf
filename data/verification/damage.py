"""What a check of a cache found, and the note of it that the next extraction goes by."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import PassingError
from data.cache.channel_statistics import statistics_path
from data.cache.commit_log import CommitLog, hash_log, read_commits
from data.cache.manifest import Manifest
from data.cache.plan import samples_by_bucket, units_of

_SHOWN_IMAGES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One file that is not what was committed; `samples` are the images known to be concerned.

    Of a file that cannot be read nothing is known: it concerns no sample, and is never marked.
    """

    path: Path
    reason: str
    level: int | None = None
    samples: tuple[int, ...] = ()
    is_known: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a check read, and what it found."""

    manifest: Manifest
    num_shards: int
    num_bytes: int
    log_id: str
    """Hash of the commits that the files were compared with."""
    damages: list[Damage] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Return the word for it: whole, damaged, or not known."""
        if any(damage.is_known for damage in self.damages):
            return "damaged"
        return "cannot be read" if self.damages else "whole"

    def lines(self) -> list[str]:
        """Return one line for each damaged file: level, shard, what is wrong, images."""
        return [self._line(damage) for damage in self.damages]

    def _line(self, damage: Damage) -> str:
        level = "" if damage.level is None else f"level {damage.level}, "
        files = [self.manifest.samples[index].file for index in damage.samples]
        images = ", ".join(files[:_SHOWN_IMAGES])
        more = f" and {len(files) - _SHOWN_IMAGES} more" if len(files) > _SHOWN_IMAGES else ""
        return f"{level}{damage.path}: {damage.reason}" + (f": {images}{more}" if files else "")


def mark_damaged(cache: Path | str, found: Verification) -> None:
    """Note the damage so that the next extraction mends it and no reader takes it for whole.

    Raises OSError if that is not possible: a cache may lie on a read-only disk. Raises PassingError
    if an extraction has committed something since the cache was read.
    """
    cache = Path(cache)
    unit_of = _unit_of_samples(found.manifest)
    damaged: dict[int, set[int]] = {}
    concerned = [each for each in found.damages if each.level is not None and each.is_known]
    for damage in concerned:
        for index in damage.samples:
            damaged.setdefault(unit_of[index], set()).add(damage.level or 0)
    with CommitLog(cache) as log:
        if hash_log(cache, with_plan=True) != found.log_id:
            raise PassingError(
                f"{cache}: an extraction wrote to it while it was checked, so nothing is marked as "
                "damaged: run the same command again"
            )
        committed = read_commits(cache, statistics=False)
        log.mark_damaged({unit: at for unit, at in damaged.items() if unit in committed})
        # Without its statistics a level does not count as complete: no reader opens it.
        for level in {damage.level or 0 for damage in concerned}:
            statistics_path(cache, level).unlink(missing_ok=True)


def _unit_of_samples(manifest: Manifest) -> dict[int, int]:
    """Return sample -> unit."""
    by_bucket = samples_by_bucket(manifest)
    return {
        index: unit.index
        for unit in units_of(manifest)
        for index in by_bucket[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]
    }
