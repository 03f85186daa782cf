"""Make a cache folder hold one plan: take an equal one up, refuse or replace another."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

from configs.errors import CacheError
from data.cache.annotations import ANNOTATIONS_NAME, write_annotations
from data.cache.cache_folder import CacheFolder
from data.cache.commit_log import CommitLog
from data.cache.containers import STORES
from data.cache.manifest import FILE_NAME, Manifest
from data.images.records import ImageSet

log = logging.getLogger(__name__)


_MAX_LEVELS = 64  # no pyramid has as many


def settle_cache(
    folder: Path, manifest: Manifest, images: ImageSet, log_file: CommitLog, *, overwrite: bool
) -> CacheFolder:
    """Write the manifest and annotations unless they are there; the caller holds the lock.

    Returns the folder as it is now. Raises CacheError, naming the difference, if another plan's
    cache is there and `overwrite` is not set.
    """
    there = _with_mended_manifest(CacheFolder(folder), manifest)
    replaced = overwrite and _is_other_plan(there, manifest)
    if replaced:
        _refuse_links(folder)
    if replaced or there.manifest_sha256 is None:
        # Commits without their manifest are of nobody knows which plan.
        log_file.clear()
        if replaced:
            _remove_cache(folder)
        manifest.save(folder)
        there = CacheFolder(folder)
    else:
        _refuse_other_plan(there, manifest)
        if (lay := there.manifest.samples[0].file) != (lies := manifest.samples[0].file):
            log.info("%s: its images are reached by another path now: %s was %s", folder, lies, lay)
    if there.committed_sha256 is None and there.manifest_sha256 is not None:
        log_file.name_plan(there.manifest_sha256)
    # Each time: a crash may have come before it, and boxes may be mended without new features.
    write_annotations(folder / ANNOTATIONS_NAME, images)
    return there


def _ways_out(manifest: Manifest) -> str:
    if manifest.decoded_from is not None:
        return "choose another --out"
    return "choose another --features; --overwrite would remove this cache for the new one"


def _refuse_other_plan(there: CacheFolder, manifest: Manifest) -> None:
    difference = manifest.difference_from(there.manifest)
    if difference is None:
        return
    left_out = len(there.manifest.skipped) if not manifest.skipped else 0
    raise CacheError(
        f"{there}: holds a cache of another plan ({difference}): "
        + (f"add --skip-bad-images, as it left out {left_out}, or " if left_out else "")
        + _ways_out(manifest)
    )


def _with_mended_manifest(there: CacheFolder, manifest: Manifest) -> CacheFolder:
    """Write the manifest anew if its file is damaged or gone and the commits are of this plan.

    They may be of the one that an older program wrote for it.
    """
    for plan in (manifest, dataclasses.replace(manifest, image_files=None)):
        if there.committed_sha256 == plan.sha256 != there.manifest_sha256:
            log.warning("%s: was damaged or gone: it is written anew", there.path / FILE_NAME)
            plan.save(there.path)
            return CacheFolder(there.path)
    return there


def _is_other_plan(there: CacheFolder, manifest: Manifest) -> bool:
    """Say whether there is something to replace; a cache of the same plan is gone on with."""
    try:
        return manifest.difference_from(there.manifest) is not None
    except CacheError:  # there is none, or a damaged one
        return True


def _refuse_links(folder: Path) -> None:
    """Raise CacheError for a level's folder that is a link to something: it may be another's."""
    for level_folder in _level_folders(folder):
        if not level_folder.is_symlink():
            continue
        target = level_folder.resolve()
        if not target.is_dir() or any(target.iterdir()):
            raise CacheError(
                f"{level_folder}: is a link to {target}, which --overwrite does not empty: remove "
                "the link, or what is in that folder, and run the same command again"
            )


def _level_folders(folder: Path) -> list[Path]:
    return [
        store.level_folder(folder, level)
        for level in range(_MAX_LEVELS)
        for store in STORES.values()
    ]


def _remove_cache(folder: Path) -> None:
    """Remove what a cache consists of and nothing else; the manifest last, as crashes happen."""
    for pattern in ("statistics_level_*.json*", f"{ANNOTATIONS_NAME}*"):
        for path in folder.glob(pattern):
            path.unlink()
    for level_folder in _level_folders(folder):
        if level_folder.is_dir() and not level_folder.is_symlink():
            shutil.rmtree(level_folder)
    (folder / FILE_NAME).unlink(missing_ok=True)
