"""A level's whole maps one by one, as torch's DataLoader takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader, Verify


class LevelDataset(Dataset[Tensor]):
    """Item i is image i of the manifest: its whole map [C, H, W], channels last.

    Its dtype is the reader's `value_dtype`: float16 or float32.

    Items are copies and may be kept. It can be sent to worker processes; each opens the files
    itself. `LevelStream` is many times faster, since it copies blocks of batches at once. Raises
    CacheError as `LevelReader` does, IndexError beyond the last image.
    """

    def __init__(
        self, cache: CacheFolder | Path | str, level: int, *, verify: Verify = "auto"
    ) -> None:
        folder = CacheFolder.of(cache)
        self._cache = folder.path
        self._level = level
        self._verify: Verify = verify
        self.reader = LevelReader(folder, level, verify=verify)

    def __len__(self) -> int:
        return self.reader.num_samples

    def __getitem__(self, index: int) -> Tensor:
        if not -len(self) <= index < len(self):
            raise IndexError(f"level {self._level} has {len(self)} samples, not number {index}")
        values = np.array(self.reader.sample(index % len(self)))
        return torch.from_numpy(values).permute(2, 0, 1)

    def __getstate__(self) -> dict[str, object]:
        return {"cache": self._cache, "level": self._level, "verify": self._verify}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]
