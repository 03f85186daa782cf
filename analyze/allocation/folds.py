"""Which images choose for which: the folds of a cross-validation. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from configs.errors import ConfigError
from data.images.image_sets import own_file


def folds_of(files: Sequence[str], num_folds: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Return the places of the images in each of `num_folds` folds, rising.

    All images are in one fold each, views of one image in the same. Which one hangs on the seed
    and the images' names, and not on their order; folds differ by one image (with its views) at
    most. Raises ConfigError for fewer images than folds.
    """
    names = [own_file(file) for file in files]
    shuffled = sorted(set(names), key=lambda name: (_drawn(seed, name), name))
    if len(shuffled) < num_folds:
        raise ConfigError(
            f"--cross-fit {num_folds}: there are {len(shuffled)} images: name fewer folds"
        )
    fold_of = {name: place % num_folds for place, name in enumerate(shuffled)}
    return tuple(
        tuple(place for place, name in enumerate(names) if fold_of[name] == fold)
        for fold in range(num_folds)
    )


def _drawn(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
