"""All that is read beside a run's level: maps and trail of its context, stored or to be decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from configs.schema.training import TrainingConfig
from configs.trusted_code import Trust
from data.cache.cache_folder import CacheFolder
from data.cache.channel_statistics import ChannelStatistics, read_statistics
from data.reading.companion import Companion
from data.reading.level_reader import Verify
from data.reading.level_stream import Batch
from train.context.decoded_cache import open_companions
from train.context.on_the_fly import frozen_chain, open_originals
from train.runs.loaded_models import LoadedModels


def as_read(batch: Batch) -> Batch:
    """Return a batch as it is: maps and trail of its context, if it has one, were read."""
    return batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """What is read beside the level in both splits; nothing where a codec codes alone.

    That is maps and trail, or the levels of which `in_context` decodes them, batch by batch.
    `coarser`: statistics of the next coarser level in the train cache.
    """

    train: tuple[Companion, ...] = ()
    val: tuple[Companion, ...] = ()
    coarser: ChannelStatistics | None = None
    in_context: Callable[[Batch], Batch] = as_read


@contextmanager
def open_beside(
    settings: TrainingConfig,
    level: int,
    train: CacheFolder,
    val: CacheFolder,
    *,
    device: str,
    trust_code: Trust,
    verify: Verify,
    between_batches: Callable[[], None],
) -> Iterator[Beside]:
    """Open what `training.context` names; what is to be stored is decoded now if it is not yet.

    Raises as `open_companions`, `frozen_chain` and `open_originals` do.
    """
    runs, models = settings.context, LoadedModels(device, trust_code=trust_code)
    with ExitStack() as stack:
        chain = frozen_chain(runs, models) if settings.context_on_the_fly else None

        def opened(source: CacheFolder) -> tuple[Companion, ...]:
            if chain is not None:
                originals = open_originals(chain, source, level=level, verify=verify)
                return stack.enter_context(originals)
            return stack.enter_context(
                open_companions(
                    runs, source, level=level, models=models, verify=verify,
                    between_batches=between_batches,
                )
            )  # fmt: skip

        beside = opened(train)
        coarser = train.manifest.level(beside[0].readers[0].info.index)
        yield Beside(
            train=beside,
            val=opened(val),
            coarser=read_statistics(train.path, coarser),
            in_context=as_read if chain is None else chain.in_context,
        )
