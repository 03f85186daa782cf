"""Compare levels: rate, distortion, bitstreams, detection.

    from analyze import AnalysisRequest, Kept, Target, Wanted, analyze

May import: analyze.allocation, analyze.anchors, analyze.curves, analyze.detection, analyze.facts,
analyze.fused, analyze.image_choice, analyze.measure, analyze.plots, analyze.report,
analyze.streams, configs, configs.schema, data.cache, data.remote, data.system, train.runs.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analyze.allocation.search import Target
    from analyze.analysis import analyze
    from analyze.facts.kept_results import Kept
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
            "decompress_folder": "analyze.streams.decompression",
            "ensemble_of_runs": "analyze.streams.ensemble",
            "read_ensemble": "analyze.streams.ensemble",
        },
    )

__all__ = [
    "AnalysisRequest",
    "Kept",
    "Target",
    "Wanted",
    "analyze",
    "compress_cache",
    "decompress_folder",
    "ensemble_of_runs",
    "read_ensemble",
]
