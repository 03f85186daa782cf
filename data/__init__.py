"""Feature caches: images in, one level's samples out.

    from data import LevelReader, LevelStream, on_device

May import: configs.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.cache.cache_folder import CacheFolder
    from data.images.image_sets import load_images
    from data.reading.companion import Companion
    from data.reading.level_dataset import LevelDataset
    from data.reading.level_reader import LevelReader
    from data.reading.level_stream import LevelStream
    from data.reading.mixed_stream import MixedLevelStream
    from data.reading.transfer import on_device
else:
    from configs.doors import open_doors  # "not a package"? A configs.py of yours hides ours.

    __getattr__, __dir__ = open_doors(
        __name__,
        {
            "CacheFolder": "data.cache.cache_folder",
            "Companion": "data.reading.companion",
            "LevelDataset": "data.reading.level_dataset",
            "LevelReader": "data.reading.level_reader",
            "LevelStream": "data.reading.level_stream",
            "MixedLevelStream": "data.reading.mixed_stream",
            "load_images": "data.images.image_sets",
            "on_device": "data.reading.transfer",
        },
    )

__all__ = [
    "CacheFolder",
    "Companion",
    "LevelDataset",
    "LevelReader",
    "LevelStream",
    "MixedLevelStream",
    "load_images",
    "on_device",
]
