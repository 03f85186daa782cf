"""Pictures for the report: what the chosen codecs do to each level and to the worst images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyze.detection.worst_images import ImageDamage, MatchedDetections, worst_images
from analyze.facts.candidates import Candidate
from analyze.facts.sent_parts import Part
from analyze.maps.map_source import DecodedMaps
from analyze.measure.context_chain import ContextChain
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.split import Split
from analyze.plots.figures import Plot
from analyze.plots.level_details import (
    LatentRate,
    ValueHistogram,
    latent_rates,
    map_pictures,
    value_histogram,
)
from analyze.plots.pictures import (
    ImageBoxes,
    boxes_plot,
    histogram_plot,
    latent_rate_plot,
    maps_plot,
)
from data.reading.level_reader import LevelReader
from train.codecs.level_codec import LevelCodec
from train.runs.loaded_models import LoadedModels

_NUM_IMAGES = 8  # of histograms and latent rates: enough for a picture
_NUM_DRAWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelPictures:
    """Pictures of one run."""

    level: int
    run: str
    plots: tuple[Plot, ...]
    latent_rates: tuple[LatentRate, ...] = ()
    """The figures behind the plots, over the first images."""
    histogram: ValueHistogram | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstImages:
    """All images, those hurt most by a combination first, and pictures of the first few of them."""

    combination: str
    images: tuple[ImageDamage, ...]
    plots: tuple[Plot, ...]


def level_pictures(
    runs: Mapping[int, Candidate], split: Split, decoded: DecodedLevels, models: LoadedModels
) -> tuple[LevelPictures, ...]:
    """Return the pictures of one run for each level, of the split's first images."""
    indices = range(min(_NUM_IMAGES, split.num_images))
    pictures = []
    for level, run in sorted(runs.items()):
        codec, maps = models.codec(run.model_folder, level=level), decoded.first_of(run)
        chain = ContextChain(run, split.readers, models)
        pictures.append(_of_level(run, codec, chain, split.readers[level], maps, indices))
    return tuple(pictures)


def _of_level(
    run: Candidate,
    codec: LevelCodec,
    chain: ContextChain,
    reader: LevelReader,
    decoded: DecodedMaps,
    indices: Sequence[int],
) -> LevelPictures:
    rates = latent_rates(codec, reader, indices, chain)
    histogram = value_histogram(reader, decoded, indices)
    return LevelPictures(
        level=run.level,
        run=str(run.folder),
        plots=(
            maps_plot(
                run.level, map_pictures(np.asarray(reader.sample(0)), np.asarray(decoded.read(0)))
            ),
            latent_rate_plot(run.level, rates),
            histogram_plot(run.level, histogram),
        ),
        latent_rates=tuple(rates),
        histogram=histogram,
    )


def worst(
    split: Split, detection: DetectionStudy | None, name: str, parts: Mapping[int, Part]
) -> WorstImages | None:
    """Return the images that the combination hurts most; None where no mAP can be had."""
    if detection is None or split.annotations is None or split.evaluator is None:
        return None
    before, after = (
        MatchedDetections(
            detections=detection.detections(each), matches=detection.evaluation(each).matches
        )
        for each in ({}, parts)
    )
    images = worst_images(
        before,
        after,
        split.annotations,
        split.evaluator.label_to_category,
        num_worst=split.num_images,
    )
    plots = [
        boxes_plot(
            f"worst_{place + 1}",
            f"{image.file.rpartition('/')[2]}: AP of this image {image.ap_before:.3f} before, "
            f"{image.ap_after:.3f} after",
            image.file,
            ImageBoxes(truth=image.truth.xyxy, before=image.before.xyxy, after=image.after.xyxy),
        )
        for place, image in enumerate(images[:_NUM_DRAWN])
    ]
    return WorstImages(
        combination=name,
        images=tuple(images),
        plots=tuple(plot for plot in plots if plot is not None),
    )
