"""Changes to a study's caches after which not everything that was measured holds."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from data.cache.annotations import read_annotations, write_annotations
from data.cache.commit_log import CommitLog


def correct_boxes(features: Path) -> None:
    """Leave out the first box of each image."""
    path = features / "val" / "annotations.json"
    images = read_annotations(path, "val")
    records = tuple(
        replace(
            record, boxes_xyxy=record.boxes_xyxy[1:], category_ids=record.category_ids[1:],
            ignored=record.ignored[1:], areas_px=None,
        )
        for record in images.records
    )  # fmt: skip
    write_annotations(path, replace(images, records=records))


def lose_the_train_cache(features: Path) -> None:
    shutil.rmtree(features / "train")


def add_to_the_commits(features: Path) -> None:
    """As a sample does that was found damaged and is mended."""
    with CommitLog(features / "val") as log:
        log.mark_damaged({0: ()})
