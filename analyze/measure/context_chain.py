"""What a contextual run sees of a split: the coarser levels as its chain of runs decodes them.

It is decoded again for each batch, coarsest level first, and not kept: a trail is as large as a
level's latents, and a coarser level takes a quarter of the time of the next finer one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analyze.facts.candidates import Candidate
from analyze.maps.equal_maps import on_device
from analyze.streams.level_file import Beside
from data.reading.level_reader import LevelReader
from train.codecs.layers.context_path import Context
from train.runs.loaded_models import LoadedModels


class ContextChain:
    """The frozen codecs of the coarser levels that a run's codec was trained beside."""

    def __init__(
        self, run: Candidate, readers: Mapping[int, LevelReader], models: LoadedModels
    ) -> None:
        """Read the codecs of a run's chain; none for a run that codes alone."""
        self._device = models.device
        self._level = None if run.context is None else run.context.level
        self._coarsest_first = [
            (readers[each.level], models.codec(each.folder)) for each in reversed(run.chain)
        ]

    def context(self, batch: Sequence[int]) -> Context | None:
        """Return what the decoder has of the next coarser level of these samples, float32.

        On a CPU it is to the bit what a file's decoder has. None for a run that codes alone.
        """
        context: Context | None = None
        for reader, codec in self._coarsest_first:
            context = codec.decoded(on_device(reader, tuple(batch), self._device), context)
        return context

    def given(self, batch: Sequence[int]) -> dict[str, Context]:
        """Return what a call of the run's codec on these samples takes besides the maps."""
        context = self.context(batch)
        return {} if context is None else {"context": context}

    def beside(self, batch: Sequence[int]) -> Beside | None:
        """Return the same as its section of a file takes it."""
        context = self.context(batch)
        if context is None or self._level is None:
            return None
        return Beside(self._level, context)
