"""Decode altered image files under a memory cap, which is the whole process's."""

from __future__ import annotations

import random
import resource
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from analyze.file_format.image_file import unpack
from analyze.streams.ensemble import read_ensemble
from analyze.streams.pyramid_codec import PyramidCodec
from configs.errors import CacheError

ROOM_BYTES = 400 * 2**20
HEADER_BYTES = 50
KINDS = ("flip", "truncate", "extend", "splice", "header", "sizes", "payload")
WEIGHTS = (20, 20, 20, 20, 10, 5, 5)  # what is decoded to its end takes longest


def mutated(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Return a name for what was done, and the altered file. `mended`: the checksum matches."""
    kind = rng.choices(KINDS, WEIGHTS)[0]
    body = bytearray(data[:-4])
    if kind == "flip":
        altered = bytearray(data)
        for place in rng.sample(range(len(data)), rng.randint(1, 8)):
            altered[place] ^= 1 << rng.randrange(8)
        return kind, bytes(altered)
    if kind == "truncate":
        return kind, data[: rng.randrange(len(data))]
    if kind == "extend":
        return kind, data + rng.randbytes(rng.randint(1, 64))
    if kind == "splice":
        start, stop = sorted(rng.choices(range(len(body)), k=2))
        body[start:stop] = body[rng.randrange(len(body)) :][: rng.randint(0, 64)]
    elif kind == "header":
        for _ in range(rng.randint(1, 3)):
            body[rng.randrange(13, HEADER_BYTES)] = rng.randrange(256)
    elif kind == "sizes":  # the first level's own size becomes another one, often a huge one
        side = rng.choice([1, 2, 100, 1000, 2047, 30000])
        where = body.index(bytes([0x40 | 0x04]), 13) + 1
        body[where : where + 2] = bytes([side & 127 | 128, side >> 7 & 127])
    else:
        for _ in range(rng.randint(1, 4)):
            body[rng.randrange(HEADER_BYTES, len(body))] = rng.randrange(256)
    return f"{kind}, mended", bytes(body) + zlib.crc32(body).to_bytes(4, "little")


def decode_mutations(ensemble: Path, file: Path, num: int) -> Counter[str]:
    """Count how many of `num` gave the original, a CacheError, or other maps of the right shapes.

    Raises any other error. What it caps is never uncapped.
    """
    torch.set_num_threads(1)
    codec = PyramidCodec(read_ensemble(ensemble), {})
    data = file.read_bytes()
    original = codec.decode(data)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, used + ROOM_BYTES))
    rng = random.Random(5)
    counts: Counter[str] = Counter()
    for _ in range(num):
        kind, altered = mutated(data, rng)
        try:
            maps = codec.decode(altered, "fuzzed.fpn")
        except CacheError as error:
            assert str(error).startswith("fuzzed.fpn: "), error
            outcome = "error"
        else:
            sizes = {section.level: section.size_hw for section in unpack(altered).sections}
            assert {level: values.shape[:2] for level, values in maps.items()} == sizes
            same = all(np.array_equal(maps[level], original[level]) for level in original)
            outcome = "original" if same else "other"
        counts[f"{kind}: {outcome}"] += 1
    return counts
