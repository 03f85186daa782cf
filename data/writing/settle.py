"""Make a cache folder hold one plan: take an equal one up, refuse or replace another."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from configs.errors import CacheError
from data.cache.annotations import ANNOTATIONS_NAME, write_annotations
from data.cache.commit_log import CommitLog, read_plan
from data.cache.containers import STORES
from data.cache.manifest import FILE_NAME, Manifest
from data.images.records import ImageSet

log = logging.getLogger(__name__)


_MAX_LEVELS = 64  # no pyramid has as many


def settle_cache(
    folder: Path, manifest: Manifest, images: ImageSet, log_file: CommitLog, *, overwrite: bool
) -> None:
    """Write the manifest and annotations unless they are there; the caller holds the lock.

    Raises CacheError, naming the difference, if another plan's cache is there and `overwrite` is
    not set.
    """
    path = folder / FILE_NAME
    _mend_manifest(folder, manifest)
    replaced = overwrite and _is_other_plan(folder, manifest)
    if replaced or not path.exists():
        # Commits without their manifest are of nobody knows which plan.
        log_file.clear()
    if replaced:
        _remove_cache(folder)
    if not path.exists():
        manifest.save(folder)
    else:
        there = Manifest.load(folder)
        if (difference := manifest.difference_from(there)) is not None:
            left_out = len(there.skipped) if not manifest.skipped else 0
            raise CacheError(
                f"{folder}: holds a cache of another plan ({difference}): "
                + (f"add --skip-bad-images, as it left out {left_out}, or " if left_out else "")
                + "add --overwrite to replace it, or choose another --features"
            )
    if read_plan(folder) is None and (sha256 := Manifest.file_sha256(folder)) is not None:
        log_file.name_plan(sha256)
    # Each time: a crash may have come before it, and boxes may be mended without new features.
    write_annotations(folder / ANNOTATIONS_NAME, images)


def _mend_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest anew if its file is damaged or gone and the commits are of this plan."""
    if read_plan(folder) == manifest.fingerprint != Manifest.file_sha256(folder):
        log.warning("%s: was damaged or gone: it is written anew", folder / FILE_NAME)
        manifest.save(folder)


def _is_other_plan(folder: Path, manifest: Manifest) -> bool:
    """Say whether there is something to replace; a cache of the same plan is gone on with."""
    try:
        return manifest.difference_from(Manifest.load(folder)) is not None
    except CacheError:  # there is none, or one that cannot be read
        return True


def _remove_cache(folder: Path) -> None:
    """Remove what a cache consists of and nothing else; the manifest last, as crashes happen."""
    for pattern in ("statistics_level_*.json*", f"{ANNOTATIONS_NAME}*"):
        for path in folder.glob(pattern):
            path.unlink()
    for level in range(_MAX_LEVELS):
        for store in STORES.values():
            shutil.rmtree(store.level_folder(folder, level), ignore_errors=True)
    (folder / FILE_NAME).unlink(missing_ok=True)
