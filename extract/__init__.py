"""Run a detector's backbone once and store each FPN level.

    from extract import extract, load_detector, load_images, plan_extraction

May import: configs, configs.schema, data.cache, data.images, data.places, data.remote, data.system,
data.verification, extract.accuracy, extract.cluster, extract.detector, extract.dry_run,
extract.features, extract.finetuning.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.images.image_sets import load_images
    from extract.accuracy.average_precision import evaluate_detector
    from extract.detector.loading import load_detector
    from extract.features.extraction import extract, plan_extraction
else:
    from configs.doors import open_doors  # "not a package"? A configs.py of yours hides ours.

    __getattr__, __dir__ = open_doors(
        __name__,
        {
            "evaluate_detector": "extract.accuracy.average_precision",
            "extract": "extract.features.extraction",
            "load_detector": "extract.detector.loading",
            "load_images": "data.images.image_sets",
            "plan_extraction": "extract.features.extraction",
        },
    )

__all__ = [
    "evaluate_detector",
    "extract",
    "load_detector",
    "load_images",
    "plan_extraction",
]
