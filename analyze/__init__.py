"""Compare levels: rate, distortion, bitstreams, detection.

    from analyze import AnalysisRequest, Kept, Target, Wanted, analyze

May import: analyze.allocation, analyze.anchors, analyze.curves, analyze.detection, analyze.facts,
analyze.fused, analyze.image_choice, analyze.measure, analyze.plots, analyze.report,
analyze.streams, configs, configs.schema, data.cache, data.places, data.remote, data.system,
train.runs.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analyze.allocation.search import Target
    from analyze.analysis import analyze
    from analyze.facts.kept_results import Kept
    from analyze.image_choice.per_image_compression import compress_per_image
    from analyze.image_choice.ways import read_candidates
    from analyze.image_choice.ways_of_runs import ways_of_runs
    from analyze.request import AnalysisRequest, Wanted
    from analyze.streams.compression import compress_cache
    from analyze.streams.decompression import decompress_folder
    from analyze.streams.ensemble import ensemble_of_runs, read_ensemble
else:
    from configs.doors import open_doors  # "not a package"? A configs.py of yours hides ours.

    __getattr__, __dir__ = open_doors(
        __name__,
        {
            "AnalysisRequest": "analyze.request",
            "Kept": "analyze.facts.kept_results",
            "Target": "analyze.allocation.search",
            "Wanted": "analyze.request",
            "analyze": "analyze.analysis",
            "compress_cache": "analyze.streams.compression",
            "compress_per_image": "analyze.image_choice.per_image_compression",
            "decompress_folder": "analyze.streams.decompression",
            "ensemble_of_runs": "analyze.streams.ensemble",
            "read_candidates": "analyze.image_choice.ways",
            "read_ensemble": "analyze.streams.ensemble",
            "ways_of_runs": "analyze.image_choice.ways_of_runs",
        },
    )

__all__ = [
    "AnalysisRequest",
    "Kept",
    "Target",
    "Wanted",
    "analyze",
    "compress_cache",
    "compress_per_image",
    "decompress_folder",
    "ensemble_of_runs",
    "read_candidates",
    "read_ensemble",
    "ways_of_runs",
]
