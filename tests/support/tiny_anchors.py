"""The usual anchors at few rate points, fitted to level 0 of the tiny study.

Import the fixtures `fitted`, `train` and `val` by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from analyze.anchors.contract import Anchor, AnchorCodec, codec_id, decode_map, pack_payload
from analyze.anchors.float16 import Float16Anchor
from analyze.anchors.klt import KltAnchor
from analyze.anchors.picture import av1_anchor, hevc_anchor
from analyze.anchors.uniform import UniformAnchor
from data.reading.level_reader import LevelReader
from tests.support.tiny_study import TinyStudy

# The usual anchors, at three points where they have more.
SMALL: dict[str, Anchor] = {
    "uniform": UniformAnchor(bits=(2, 5, 8)),
    "klt": KltAnchor(relative_steps=(2.0, 0.5, 0.125)),
    "hevc-8": hevc_anchor(8, (40, 28, 16)),
    "hevc-10": hevc_anchor(10, (40, 28, 16)),
    "av1-8": av1_anchor(8, (55, 35, 15)),
    "av1-10": av1_anchor(10, (55, 35, 15)),
    "float16": Float16Anchor(),
}


@pytest.fixture(scope="module")
def train(study: TinyStudy) -> Iterator[LevelReader]:
    with LevelReader(study.train_cache, 0) as reader:
        yield reader


@pytest.fixture(scope="module")
def val(study: TinyStudy) -> Iterator[LevelReader]:
    with LevelReader(study.val_cache, 0) as reader:
        yield reader


@pytest.fixture(scope="module")
def fitted(train: LevelReader) -> dict[str, list[AnchorCodec]]:
    indices = range(train.num_samples)
    return {name: list(each.fit(train, indices)) for name, each in SMALL.items()}


def sample_of(reader: LevelReader, size_hw: tuple[int, int], index: int = 0) -> NDArray[Any]:
    values = np.array(reader.sample(index), dtype=np.float32)[: size_hw[0], : size_hw[1]]
    assert values.shape[:2] == size_hw
    return np.ascontiguousarray(values)


def stream_of(codec: AnchorCodec, values: NDArray[Any]) -> bytes:
    height, width, _ = values.shape
    return pack_payload(codec.encode(values), (height, width), level=0, identity=codec_id(codec))


def restored_from(codec: AnchorCodec, data: bytes) -> NDArray[Any]:
    return decode_map(codec, data, level=0, identity=codec_id(codec))
