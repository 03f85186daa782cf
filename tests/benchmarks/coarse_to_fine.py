"""Coding whole pyramids from coarse to fine beside five codecs that know nothing of each other.

Untrained codecs of the default widths, and once more with the finest level's codec as narrow as
configs/coarse_to_fine.yaml makes it; smooth made-up maps of the sizes that an image of 320x533 px
gives, one image at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analyze.streams.ensemble import CodedLevel, Ensemble
from analyze.streams.pyramid_codec import PyramidCodec
from configs.config_files import load_config
from configs.schema.training import ContextConfig, ModelConfig
from tests.benchmarks.report import Cell, Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians, timed
from train.codecs.catalogue import build_codec
from train.codecs.level_codec import LevelCodec
from train.runs.checkpoint import ready_to_code
from train.runs.loaded_models import LoadedModels

MODELS = ("factorized_prior_specific_level", "mean_scale_hyperprior")
WIDTHS: dict[str, Any] = {}
"""Settings of the models other than the usual ones."""
SIZES_HW = ((80, 136), (40, 68), (20, 34), (10, 17), (5, 9))
NUM_CHANNELS = 256
ROUNDS = 5
WAYS = ("narrow", "coarse to fine", "alone")
RECIPE = "coarse_to_fine"


class _Untrained(LoadedModels):
    """A codec for each level, all made here; each but the coarsest may see the next one."""

    def __init__(self, name: str, way: str) -> None:
        super().__init__()
        self.made: dict[Path, tuple[Any, LevelCodec]] = {}
        context: ContextConfig | None = None
        for level in reversed(range(len(SIZES_HW))):
            torch.manual_seed(level)
            widths = WIDTHS | (_of_recipe(level) if way == "narrow" else {})
            model = ModelConfig.model_validate({"name": name, "context": context, **widths})
            codec = build_codec(model, NUM_CHANNELS)
            with torch.no_grad():
                # Of untrained weights all latents would be 0.
                codec.g_a[-1].weight.mul_(30)  # type: ignore[index, union-attr]
            known = () if context is None else (f"{level + 1:064x}",)
            info = SimpleNamespace(
                model_sha256=f"{level:064x}",
                context=known,
                config=SimpleNamespace(model=model),
                is_fused=False,
            )
            self.made[Path(str(level))] = info, ready_to_code(codec, "cpu")
            if way != "alone":
                context = ContextConfig(
                    num_channels=NUM_CHANNELS,
                    stride=2,
                    trail_channels=model.n_channels + (context.trail_channels if context else 0),
                    trail_stride=2 * codec.stride,
                )

    def info(self, run: str | Path) -> Any:
        return self.made[Path(run)][0]

    def codec(self, run: str | Path, *, level: int | None = None) -> LevelCodec:
        return self.made[Path(run)][1]


def _of_recipe(level: int) -> dict[str, Any]:
    """Return what the packaged recipe says of a level's model alone."""
    own = load_config(RECIPE).levels.get(level)
    return {} if own is None else own.given().get("model", {})


def run(folder: Path) -> list[Table]:
    """Measure each model; one table for all."""
    rows: list[list[Cell]] = []
    goals: list[Goal] = []
    for name in MODELS:
        ms = _milliseconds(name)
        # An encoder has to have what finer levels see, too.
        for what in ("encode", "decode", "decode of the coarser levels"):
            narrow, beside, alone = (ms[f"{what}, {way}"] for way in WAYS)
            rows.append([f"{name}, {what}", narrow, beside, alone, narrow / alone, beside / alone])
            if what != "decode of the coarser levels":
                goal = f"{name}, {what}: time of five codecs alone / coarse to fine, narrow"
                goals.append(Goal(what=goal, ratio=alone / narrow, at_least=1 / 1.5))
    return [
        Table(
            title="coarse to fine: whole pyramids",
            columns=["", "ms narrow", "ms coarse to fine", "ms alone", "narrow / alone", "/ alone"],
            rows=rows,
            goals=goals,
            note="milliseconds an image of 320x533 px, five levels, untrained codecs",
        )
    ]


def _milliseconds(name: str) -> dict[str, float]:
    maps = _maps()
    contestants: dict[str, Callable[[int], float]] = {}
    for way in WAYS:
        models = _Untrained(name, way)
        levels = {
            level: CodedLevel(run=run, model_sha256=models.info(run).model_sha256, lmbda=0.1)
            for level, run in enumerate(sorted(models.made))
        }
        contestants |= _contestants(PyramidCodec(Ensemble(dict(levels)), {}, models), maps, way)
        del levels[0]
        coarser = PyramidCodec(Ensemble(dict(levels)), {}, models)
        seen = _contestants(coarser, maps, way)[f"decode, {way}"]
        contestants[f"decode of the coarser levels, {way}"] = seen
    measured = medians(interleaved(contestants, rounds=ROUNDS))
    return {key: 1e3 * seconds for key, seconds in measured.items()}


def _contestants(
    codec: PyramidCodec, maps: dict[int, NDArray[Any]], way: str
) -> dict[str, Callable[[int], float]]:
    data = codec.encode(maps, image_id=1, image_hw=(320, 533))
    return {
        f"encode, {way}": timed(lambda _: codec.encode(maps, image_id=1, image_hw=(320, 533))),
        f"decode, {way}": timed(lambda _: codec.decode(data)),
    }


def _maps() -> dict[int, NDArray[Any]]:
    """Return level -> float32 [H, W, C]: noise that is alike over some positions."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, NUM_CHANNELS, 8, 12, generator=generator)
    return {
        level: np.ascontiguousarray(
            torch.nn.functional.interpolate(noise, size, mode="bilinear")[0].permute(1, 2, 0)
        )
        for level, size in enumerate(SIZES_HW)
    }


if __name__ == "__main__":
    main("coarse_to_fine", run)
