"""Long work in small pieces, each by the command that users run; `tick` counts them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.config_files import dump_config
from data.writing.writer import CacheWriter
from tests.soak.growth import Reading, Watch
from tests.support.analysis import analyse
from tests.support.extraction import must_extract
from tests.support.tiny_study import TinyStudy, make_study
from tests.support.training_command import call
from train.loop.steps import Step

Tick = Callable[[int], None]
LEVELS = (3, 4)
"""Whose runs are analysed."""
_SCENES_PX = 48


def train(study: TinyStudy, folder: Path, num_steps: int, tick: Tick) -> None:
    """Train a level on one image a step; validate every tenth epoch, save every second."""

    def counted(step: Step, *arguments: Any) -> None:
        take(step, *arguments)
        tick(1)

    take, num_images = Step.__call__, 6
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Step, "__call__", counted)
        result = call(
            study, folder / "runs", "--level", "2", "--batch-size", "1",
            "--epochs", str(-(-num_steps // num_images)), "--set", "validation.interval=10",
            "--set", "training.save_interval_s=1", "--set", "training.early_stopping.enabled=false",
        )  # fmt: skip
    assert result.exit_code == 0, result.output


def extract(study: TinyStudy, folder: Path, num_scenes: int, tick: Tick) -> None:
    """Extract all levels of scenes, resized to few pixels."""

    def counted(writer: CacheWriter, unit: Any, maps: Any) -> int:
        written = write(writer, unit, maps)
        tick(len(next(iter(maps.values()))))
        return written

    write, config = CacheWriter.write, study.config
    splits = {"train": config.data.splits["train"].model_copy(update={"num_scenes": num_scenes})}
    small = {"min_size": _SCENES_PX, "max_size": _SCENES_PX * 2}
    path = folder / "scenes.yaml"
    path.write_text(
        dump_config(
            config.model_copy(
                update={
                    "data": config.data.model_copy(update={"splits": splits}),
                    "detector": config.detector.model_copy(update=small),
                    "cache": config.cache.model_copy(update={"shard_megabytes": 2}),
                }
            )
        )
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CacheWriter, "write", counted)
        must_extract(path, folder / "features")


def analyse_again(
    study: TinyStudy, folder: Path, num_analyses: int, tick: Tick, *, draw_every: int = 5
) -> None:
    """Measure one image anew each time, and write the report over the one before.

    Drawing is four fifths of it: one of `draw_every` is drawn, of 0 none.
    """
    runs = folder / "runs"
    for level in LEVELS:
        result = call(study, runs, "--level", str(level), "--epochs", "1")
        assert result.exit_code == 0, result.output
    once = partial(analyse, study, runs, folder / "report", "--limit", "1")
    for number in range(num_analyses):
        shutil.rmtree(folder / "kept", ignore_errors=True)
        with pytest.MonkeyPatch.context() as patched:
            if not draw_every or number % draw_every:
                patched.setattr("analyze.plots.figures._png", lambda *_: b"")
                patched.setattr("analyze.plots.figures._svg", lambda *_: b"<svg/>")
                patched.setattr("analyze.analysis.level_pictures", lambda *_: ())
            result = once()
        assert result.exit_code == 0, result.output
        tick(1)


JOBS = {"train": (train, 10_000), "extract": (extract, 5_000), "analyse": (analyse_again, 200)}
"""Each job and its pieces of work: steps, scenes, analyses."""
_READINGS = 100


def soak(name: str, number: int, folder: Path, out: Path) -> list[Reading]:
    """Do so much of a job in this process; return what it held meanwhile, which `out` gets, too."""
    torch.set_num_threads(1)  # tiny maps are faster so
    study = make_study(folder)
    (folder / name).mkdir()
    watch = Watch(folder / name, every=max(1, number // _READINGS), out=out)
    JOBS[name][0](study, folder / name, number, watch.tick)
    return watch.readings
