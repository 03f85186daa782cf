"""Extraction's wall time against a bare loop: decode, run the backbone, keep nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from data.images.image_sets import read_image
from data.images.records import ImageSet
from extract.detector.loading import backbone_levels, prepare_images
from extract.features.extraction import extract
from tests.benchmarks.report import Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians, timed
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

    def bare_loop(number: int) -> None:
        for sample in manifest.samples:
            batch, _ = prepare_images(model, [read_image(sample.file)])
            with torch.inference_mode():
                backbone_levels(model, batch)

    def extraction(number: int) -> None:
        done = extract(cache, manifest, images, model, show_progress=False)
        assert done.num_new_images == len(manifest.samples)

    seconds = medians(
        interleaved(
            {"bare loop": timed(bare_loop), "extraction": timed(extraction)},
            rounds=ROUNDS,
            before=lambda name, number: shutil.rmtree(cache, ignore_errors=True),
        )
    )
    shutil.rmtree(cache, ignore_errors=True)
    return Table(
        title=f"extraction: {builder}, {len(manifest.samples)} images at 256x256 px",
        columns=["", "s", "images/s"],
        rows=[[name, value, len(manifest.samples) / value] for name, value in seconds.items()],
        goals=[
            Goal(
                what="extraction's time / bare loop's",
                ratio=seconds["extraction"] / seconds["bare loop"],
                at_most=1.05,
            )
        ],
    )


if __name__ == "__main__":
    main("extraction", run)
