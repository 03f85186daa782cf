"""Train one codec per level from its cache.

    from train import LevelCodec, build_codec, load_codec, rate_distortion

May import: configs, data.cache, data.places, data.remote, data.system, extract.detector,
train.forecast, train.loop, train.machine, train.runs, train.study.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.codecs.catalogue import build_codec
    from train.codecs.level_codec import LevelCodec
    from train.objective.rate_distortion import rate_distortion
    from train.runs.checkpoint import load_codec
    from train.runs.loaded_models import LoadedModels
else:
    from configs.doors import open_doors  # "not a package"? A configs.py of yours hides ours.

    __getattr__, __dir__ = open_doors(
        __name__,
        {
            "LevelCodec": "train.codecs.level_codec",
            "LoadedModels": "train.runs.loaded_models",
            "build_codec": "train.codecs.catalogue",
            "load_codec": "train.runs.checkpoint",
            "rate_distortion": "train.objective.rate_distortion",
        },
    )

__all__ = [
    "LevelCodec",
    "LoadedModels",
    "build_codec",
    "load_codec",
    "rate_distortion",
]
