"""The time that `extract-features --dry-run` foretells against the time that it then takes."""

from __future__ import annotations

import shutil
from pathlib import Path

from data.images.records import ImageSet
from extract.dry_run.estimate import estimate
from extract.features.extraction import extract
from tests.benchmarks.report import Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians
from tests.benchmarks.scene_images import (
    BUILDERS,
    image_files,
    planned,
)

ROUNDS = 5


def run(folder: Path) -> list[Table]:
    """Measure a ResNet-50 and the compact detector."""
    images = image_files(folder / "images")
    return [_measure(builder, images, folder / builder) for builder in BUILDERS]


def _measure(builder: str, images: ImageSet, cache: Path) -> Table:
    detector, manifest = planned(builder, images)
    model = detector.model

    def foretold(number: int) -> float:
        return estimate(manifest, model, cache).seconds

    def taken(number: int) -> float:
        return extract(cache, manifest, images, model, show_progress=False).seconds

    measured = interleaved(
        {"foretold": foretold, "taken": taken},
        rounds=ROUNDS,
        before=lambda name, number: shutil.rmtree(cache, ignore_errors=True),
    )
    shutil.rmtree(cache, ignore_errors=True)
    seconds = medians(measured)
    return Table(
        title=f"dry_run: {builder}, {len(manifest.samples)} images at 256x256 px",
        columns=["", "s", "least", "most"],
        rows=[[name, seconds[name], min(all_), max(all_)] for name, all_ in measured.items()],
        goals=[
            Goal(
                what="foretold / taken",
                ratio=seconds["foretold"] / seconds["taken"],
                at_least=0.7,
                at_most=1.3,
            )
        ],
    )


if __name__ == "__main__":
    main("dry_run", run)
