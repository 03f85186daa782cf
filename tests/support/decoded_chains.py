"""Decode files of three levels in a process of its own: run by test_pyramid_codec.

Arguments, four for each file: the file, and the runs of its levels. What the decoder has of each
level, (maps, trail), is saved beside the file, as `<file>.decoded`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from analyze.file_format.image_file import unpack
from analyze.streams.level_file import decode_sections
from train.codecs.layers.context_path import Context
from train.runs.loaded_models import LoadedModels


def contexts_in(data: bytes, runs: list[Path], models: LoadedModels) -> dict[int, Context]:
    """What the decoder has of each level of a file; `runs` are those of levels 0, 1, ..."""
    found: dict[int, Context] = {}
    for section in reversed(unpack(data).sections):
        context = None if section.context is None else found[section.context]
        codec = models.codec(runs[section.level])
        found[section.level] = decode_sections(codec, [section], "file", context)
    return found


def main(arguments: list[Path]) -> None:
    """Decode every file."""
    for first in range(0, len(arguments), 4):
        file, *runs = arguments[first : first + 4]
        found = contexts_in(file.read_bytes(), runs, LoadedModels())
        plain = {level: (there.maps, there.trail) for level, there in found.items()}
        torch.save(plain, file.with_name(f"{file.name}.decoded"))


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:]])
