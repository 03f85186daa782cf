"""Code and decode chains of three levels, as another machine would: see test_pyramid_codec.

Run as a process of its own, whose environment says which machine it is. Arguments, four for each
file: the file, and the runs of its levels; beside it lie its maps, as `<file>.maps`. What it makes
is saved there, too: `<file>.decoded`, of each level what the decoder has, (maps, trail);
`<file>.recoded`, the file that it makes of the maps, and `<file>.redecoded`, what it decodes of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numba
import torch
from numpy.typing import NDArray
from torch import Tensor

from analyze.file_format.image_file import unpack
from analyze.streams.ensemble import CodedLevel, Ensemble
from analyze.streams.level_file import decode_sections
from analyze.streams.pyramid_codec import PyramidCodec
from train.codecs.layers.context_path import Context
from train.runs.loaded_models import LoadedModels

Decoded = dict[int, tuple[Tensor, Tensor]]
"""Level -> (maps, trail)."""


def contexts_in(data: bytes, runs: list[Path], models: LoadedModels) -> dict[int, Context]:
    """What the decoder has of each level of a file; `runs` are those of levels 0, 1, ..."""
    found: dict[int, Context] = {}
    for section in reversed(unpack(data).sections):
        context = None if section.context is None else found[section.context]
        codec = models.codec(runs[section.level])
        found[section.level] = decode_sections(codec, [section], "file", context)
    return found


def decoded(data: bytes, runs: list[Path], models: LoadedModels) -> Decoded:
    """The same as plain tensors."""
    found = contexts_in(data, runs, models)
    return {level: (there.maps, there.trail) for level, there in found.items()}


def coded(maps: dict[int, NDArray[Any]], runs: list[Path], models: LoadedModels) -> bytes:
    """The file of one image's maps, each level by its run."""
    levels = {
        level: CodedLevel(run=run, model_sha256=models.info(run).model_sha256, lmbda=0.1)
        for level, run in enumerate(runs)
    }
    codec = PyramidCodec(Ensemble(dict(levels)), {}, models)
    return codec.encode(maps, image_id=1, image_hw=(100, 168))


def machine() -> list[object]:
    """What this process takes the machine for: vectors of torch, processor of Numba, threads."""
    return [
        torch.backends.cpu.get_cpu_capability(), numba.config.CPU_NAME, torch.get_num_threads(),
    ]  # fmt: skip


def main(arguments: list[Path]) -> None:
    """Decode and make every file; print the machine."""
    for first in range(0, len(arguments), 4):
        file, *runs = arguments[first : first + 4]
        models = LoadedModels()
        torch.save(decoded(file.read_bytes(), runs, models), f"{file}.decoded")
        maps = {level: each.numpy() for level, each in torch.load(f"{file}.maps").items()}
        data = coded(maps, runs, models)
        Path(f"{file}.recoded").write_bytes(data)
        torch.save(decoded(data, runs, models), f"{file}.redecoded")
    print(json.dumps(machine()))


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:]])
