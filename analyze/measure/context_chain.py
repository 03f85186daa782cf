"""What a contextual run sees of a split: the coarser levels as its chain of runs decodes them.

It is decoded again for each batch, coarsest level first, and not kept: a trail is as large as a
level's latents, and a coarser level takes a quarter of the time of the next finer one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from analyze.facts.candidates import Candidate
from analyze.file_format.section_heads import Section
from analyze.maps.equal_maps import Batch, on_device
from analyze.streams.level_file import SeenLevel, encode_sections, predicted_section
from data.reading.level_reader import LevelReader
from train.codecs.layers.context_path import Context
from train.codecs.level_codec import LevelCodec
from train.runs.loaded_models import LoadedModels


class ContextChain:
    """The frozen codecs of the coarser levels that a run's codec was trained beside."""

    def __init__(
        self, run: Candidate, readers: Mapping[int, LevelReader], models: LoadedModels
    ) -> None:
        """Read the codecs of a run's chain; none for a run that codes alone."""
        self._device = models.device
        self._level = None if run.context is None else run.context.level
        self._run = run
        self._reader = readers[run.level]
        self._coarsest_first = [
            (each, readers[each.level], models.codec(each.model_folder, level=each.level))
            for each in reversed(run.chain)
        ]

    def context(self, batch: Sequence[int]) -> Context | None:
        """Return what the decoder has of the next coarser level of these samples, float32.

        On a CPU it is to the bit what a file's decoder has. None for a run that codes alone.
        """
        context: Context | None = None
        for run, reader, codec in self._coarsest_first:
            if run.is_predicted:
                assert context is not None, "predicted from a coarser level"
                context = codec.predicted(_size_of(reader, batch), context)
            else:
                context = codec.decoded(on_device(reader, tuple(batch), self._device), context)
        return context

    def given(self, batch: Sequence[int]) -> dict[str, Context]:
        """Return what a call of the run's codec on these samples takes besides the maps."""
        context = self.context(batch)
        return {} if context is None else {"context": context}

    def x_hat(self, codec: LevelCodec, batch: Batch) -> Tensor:
        """Return what the decoder has of the run's own level, float32 [B, C, H, W], by forward."""
        given = self.given(batch)
        if self._run.is_predicted:
            return codec.predicted(_size_of(self._reader, batch), given["context"]).maps
        x_hat: Tensor = codec(on_device(self._reader, batch, self._device), **given)["x_hat"]
        return x_hat

    def sections(self, codec: LevelCodec, maps: Tensor, beside: SeenLevel | None) -> list[Section]:
        """Return what files hold of the run's own level, of maps float32 [B, C, H, W]."""
        level = self._run.level
        if not self._run.is_predicted:
            return encode_sections(codec, maps, level=level, beside=beside)
        assert beside is not None, "predicted from a coarser level"
        size_hw = (int(maps.shape[-2]), int(maps.shape[-1]))
        one = predicted_section(codec, size_hw, level=level, context_level=beside.level)
        return [one] * len(maps)

    @property
    def is_sent(self) -> bool:
        """Whether anything is sent of the run's own level."""
        return not self._run.is_predicted

    def beside(self, batch: Sequence[int]) -> SeenLevel | None:
        """Return the same as its section of a file takes it."""
        context = self.context(batch)
        if context is None or self._level is None:
            return None
        return SeenLevel(self._level, context)


def _size_of(reader: LevelReader, batch: Sequence[int]) -> tuple[int, int]:
    height, width, _ = reader.shape(batch[0])
    return height, width
