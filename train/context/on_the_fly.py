"""What a codec sees of coarser levels, decoded by their frozen codecs batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import ConfigError
from data.cache.cache_folder import CacheFolder
from data.reading.companion import Companion
from data.reading.level_reader import LevelReader, Verify
from data.reading.level_stream import Batch
from train.codecs.layers.context_path import Context
from train.codecs.level_codec import LevelCodec
from train.context.context_runs import runs_beside
from train.runs.loaded_models import LoadedModels


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenChain:
    """The codecs of a chain of runs, and the levels that they decode, the next coarser one first.

    A crop is decoded as if it were a map of its own: at its edges it is not what the decoder will
    have there of the whole map.
    """

    codecs: tuple[LevelCodec, ...]
    levels: tuple[int, ...]

    def in_context(self, batch: Batch) -> Batch:
        """Return a batch with decoded maps and trail beside it, in place of the levels' own maps.

        They lie on the codecs' device.
        """
        context: Context | None = None
        device = self.codecs[0].mean.device
        for codec, maps in zip(self.codecs[::-1], batch.beside[::-1], strict=True):
            # One map for none, as not all kernels know what to do with none.
            x = maps if len(maps) else maps.new_zeros((1, *maps.shape[1:]))
            context = codec.decoded(x.to(device).float(), context)
        assert context is not None, "a chain has one codec at least"
        rows = slice(len(batch.features))
        return replace(batch, beside=(context.maps[rows], context.trail[rows]))


def frozen_chain(runs: Sequence[str], models: LoadedModels) -> FrozenChain:
    """Return the codecs of a run and of all that it was trained beside, ready to decode.

    Raises ConfigError if a codec was trained beside several, or if one is not found.
    """
    codecs, levels = [], []
    beside = list(runs)
    while beside:
        if len(beside) > 1:
            raise ConfigError(
                f"training.context_on_the_fly: {len(beside)} runs of a level would each decode "
                "every batch: name one, or leave --context-on-the-fly out"
            )
        codecs.append(models.codec(beside[0]))
        levels.append(models.info(beside[0]).level)
        beside = runs_beside(Path(beside[0]), models)
    return FrozenChain(codecs=tuple(codecs), levels=tuple(levels))


@contextmanager
def open_originals(
    chain: FrozenChain, source: CacheFolder, *, level: int, verify: Verify = "auto"
) -> Iterator[tuple[Companion, ...]]:
    """Open what a chain decodes of a split's cache, to be read beside a level.

    Raises CacheError if a level is missing, or if the cache is of bytes or crops.
    """
    stride_px = source.manifest.level(level).stride_px
    with ExitStack() as stack:
        readers = [
            stack.enter_context(LevelReader(source, coarser, verify=verify))
            for coarser in chain.levels
        ]
        yield tuple(Companion((reader,), reader.info.stride_px // stride_px) for reader in readers)
