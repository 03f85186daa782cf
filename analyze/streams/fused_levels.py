"""Levels that one model codes in one latent: sections, the finest of which has the payloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from analyze.file_format.section_heads import Kind, Section
from analyze.maps.map_source import as_batch
from analyze.streams.ensemble import CodedLevel, Ensemble, FusedLevel
from configs.errors import CacheError, ConfigError
from train.codecs.fused_pyramid import FusedPyramid
from train.runs.loaded_models import LoadedModels


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedLevels:
    """A model that codes several levels at once, and which they are, finest first."""

    levels: tuple[int, ...]
    codec: FusedPyramid

    def tensors(self, maps: Mapping[int, NDArray[Any]]) -> list[Tensor]:
        """Return what the codec takes of maps [H, W, C], on its device."""
        device = self.codec.mean.device
        return [as_batch(maps[level]).to(device) for level in self.levels]

    def sections(self, maps: Mapping[int, NDArray[Any]]) -> dict[int, Section]:
        """Return what is sent of each level of one image, of whose maps there are float [H, W, C].

        Raises CacheError if the maps are not on grids of its levels' strides.
        """
        coded = self.codec.compress(self.tensors(maps))
        self._require_grids(coded["sizes"], "the cache")
        finest = self.levels[0]
        return {
            level: Section(
                level=level,
                kind=Kind.FUSED,
                size_hw=size_hw,
                source=finest,
                stages=self.codec.size.stages if level == finest else 0,
                payloads=tuple(coded["strings"][0]) if level == finest else (),
            )
            for level, size_hw in zip(self.levels, coded["sizes"], strict=True)
        }

    def decoded(self, sections: Sequence[Section], source: str) -> dict[int, NDArray[Any]]:
        """Return every level's map, float32 [H, W, C], of a file's fused sections, finest first.

        Raises CacheError, which names `source`, if they are not of this model.
        """
        finest, stages = self.levels[0], self.codec.size.stages
        is_own = tuple(section.level for section in sections) == self.levels
        if not is_own or (sections[0].stages, len(sections[0].payloads)) != (
            stages, self.codec.num_payloads,
        ):  # fmt: skip
            raise CacheError(
                f"{source}: is damaged (level {finest} is not as its model codes it): "
                "compress the features again"
            )
        sizes = [section.size_hw for section in sections]
        self._require_grids(sizes, source)
        try:
            maps = self.codec.decompress([list(sections[0].payloads)], sizes)
        except CacheError as error:
            names = " and ".join(map(str, self.levels))
            raise CacheError(f"{source}: levels {names}, coded in one: {error}") from error
        return {
            level: values[0].permute(1, 2, 0).cpu().numpy()
            for level, values in zip(self.levels, maps, strict=True)
        }

    def _require_grids(self, sizes: Sequence[tuple[int, int]], source: str) -> None:
        """Raise CacheError unless each level has the positions that its stride leaves.

        A forged size cannot ask for more room than maps of the finest level take.
        """
        height, width = sizes[0]
        for level, size, stride in zip(self.levels, sizes, self.codec.pyramid.strides, strict=True):
            if size != (due := (-(-height // stride), -(-width // stride))):
                raise CacheError(
                    f"{source}: level {level} has {size[0]} x {size[1]} positions, beside level "
                    f"{self.levels[0]} it has to have {due[0]} x {due[1]}: these are not the maps "
                    "that the fused model codes"
                )


def fused_levels(ensemble: Ensemble, models: LoadedModels) -> list[FusedLevels]:
    """Return the fused models of an ensemble, and the levels that each codes.

    Raises ConfigError unless each of them codes all of its levels, and fused models alone do so.
    """
    by_run: dict[str, list[int]] = {}
    for level, how in sorted(ensemble.levels.items()):
        if isinstance(how, FusedLevel):
            by_run.setdefault(str(how.run), []).append(level)
        elif isinstance(how, CodedLevel) and models.info(how.run).is_fused:
            raise ConfigError(
                f"level {level}: {how.run} codes the levels {list(models.info(how.run).levels)} in "
                "one: write `fused: true` for each of them, or name a run of this level"
            )
    found = []
    for run, levels in by_run.items():
        info = models.info(run)
        if not info.is_fused or info.levels != tuple(levels):
            codes = f"codes the levels {list(info.levels)}" + ("" if info.is_fused else " singly")
            raise ConfigError(
                f"levels {levels} cannot be fused by {run}, which {codes}: a run of train-level "
                "--level fused codes all of its levels, or none"
            )
        codec = models.codec(run)
        assert isinstance(codec, FusedPyramid), "is_fused says so"
        found.append(FusedLevels(levels=info.levels, codec=codec))
    return found
