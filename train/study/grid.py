"""The runs that are asked for: every level with every lambda and every seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from configs.errors import ConfigError
from configs.schema.config import Config
from data.cache.cache_folder import CacheFolder
from train.loop.job import Job


def trials(
    settings: Config, lambdas: tuple[float, ...], num_seeds: int
) -> Iterator[tuple[str, ...]]:
    """Yield what each run of a level overrides: every lambda with every seed.

    Raises ConfigError for several seeds where single levels have their own.
    """
    if num_seeds > 1 and any(
        "seed" in own.given().get("training", {}) for own in settings.levels.values()
    ):
        raise ConfigError(
            "--seeds: `levels` gives single levels seeds of their own: leave them out"
        )
    first = settings.training.seed
    for lmbda in dict.fromkeys(lambdas) or (None,):
        of_lambda = () if lmbda is None else (f"training.lambda={lmbda!r}",)
        for seed in range(first, first + num_seeds):
            yield of_lambda if num_seeds == 1 else (*of_lambda, f"training.seed={seed}")


def grid(job: Job, level: int | str, configs: Iterable[Config]) -> list[Job]:
    """Return the jobs of a level, or of `all` levels of the train cache: one a configuration."""
    levels = [level]
    if level == "all":
        levels = [each.index for each in CacheFolder.of(job.train_cache).manifest.levels]
    return [replace(job, level=number, config=each) for number in levels for each in configs]
