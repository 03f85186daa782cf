"""Fitted anchors as files: any process decodes with them, and damage is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analyze.anchors.catalogue import load_anchor_codec, save_codec
from analyze.anchors.contract import AnchorCodec, codec_id
from configs.errors import CacheError
from data.reading.level_reader import LevelReader
from tests.support.tiny_anchors import SMALL, stream_of
from tests.support.tiny_anchors import fitted as fitted
from tests.support.tiny_anchors import train as train
from tests.support.tiny_anchors import val as val
from tests.support.tiny_study import study as study

ROOT = Path(__file__).parents[3]

DECODE = """
import sys
from pathlib import Path
import numpy as np
from analyze.anchors.catalogue import load_anchor_codec
from analyze.anchors.contract import codec_id, decode_map
for name in sys.argv[2:]:
    codec = load_anchor_codec(Path(sys.argv[1]) / f"{name}.npz")
    data = (Path(sys.argv[1]) / f"{name}.bin").read_bytes()
    restored = decode_map(codec, data, level=0, identity=codec_id(codec))
    np.save(Path(sys.argv[1]) / f"{name}.npy", restored)
"""


def test_another_process_decodes_the_same_maps_from_files_alone(
    fitted: dict[str, list[AnchorCodec]], val: LevelReader, tmp_path: Path
) -> None:
    values = np.array(val.sample(0), dtype=np.float32)
    for name, codecs in fitted.items():
        save_codec(codecs[0], tmp_path / f"{name}.npz")
        (tmp_path / f"{name}.bin").write_bytes(stream_of(codecs[0], values))
    command = [sys.executable, "-c", DECODE, str(tmp_path), *fitted]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    for name, codecs in fitted.items():
        expected = codecs[0].decode(codecs[0].encode(values), values.shape[:2])
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected, err_msg=name)


@pytest.mark.parametrize("name", SMALL)
def test_saved_codec_is_the_same_codec(
    name: str, fitted: dict[str, list[AnchorCodec]], tmp_path: Path
) -> None:
    for codec in fitted[name]:
        save_codec(codec, tmp_path / "codec.npz")
        loaded = load_anchor_codec(tmp_path / "codec.npz")
        assert type(loaded) is type(codec)
        assert loaded.point == codec.point
        assert codec_id(loaded) == codec_id(codec)


def test_damaged_or_missing_file_of_a_codec_is_a_cache_error(
    fitted: dict[str, list[AnchorCodec]], tmp_path: Path
) -> None:
    path = tmp_path / "codec.npz"
    with pytest.raises(CacheError, match="no such anchor: fit it"):
        load_anchor_codec(path)
    save_codec(fitted["klt"][0], path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", whole[:100], whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(CacheError, match=r"codec\.npz: is damaged .*fit the anchor again"):
            load_anchor_codec(path)
    np.savez(path, kind="uniform", bits=3)
    with pytest.raises(CacheError, match="is damaged"):
        load_anchor_codec(path)
    np.savez(path, kind="wavelet")
    with pytest.raises(CacheError, match="is damaged"):
        load_anchor_codec(path)
