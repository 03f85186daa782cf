"""The anchors there are, and fitted codecs as files, so that any process can decode."""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.anchors.contract import Anchor, AnchorCodec, codec_arrays
from analyze.anchors.float16 import Float16Anchor, Float16Codec
from analyze.anchors.klt import KltAnchor, KltCodec
from analyze.anchors.picture import PictureCodec, av1_anchor, hevc_anchor
from analyze.anchors.uniform import UniformAnchor, UniformCodec
from configs.errors import CacheError, ConfigError
from data.system.atomic_files import write_atomically
from train.codecs.entropy.symbol_tables import SymbolTables

ANCHORS: dict[str, Anchor] = {
    "uniform": UniformAnchor(),
    "klt": KltAnchor(),
    "hevc-8": hevc_anchor(8),
    "hevc-10": hevc_anchor(10),
    "av1-8": av1_anchor(8),
    "av1-10": av1_anchor(10),
    "float16": Float16Anchor(),
}
"""Every anchor at its usual rate points, by the name that options use."""

_CODECS: dict[str, Any] = {
    codec.kind: codec for codec in (UniformCodec, KltCodec, PictureCodec, Float16Codec)
}


def find_anchor(name: str) -> Anchor:
    """Return the anchor of this name; ConfigError if there is none."""
    if name not in ANCHORS:
        raise ConfigError(
            f"--anchors {name}: there is none of this name: use {', '.join(ANCHORS)}, or one of "
            "fast, all, none"
        )
    return ANCHORS[name]


def save_codec(codec: AnchorCodec, path: Path) -> None:
    """Write a fitted codec as .npz, atomically; raises OSError if that cannot be done."""
    content = io.BytesIO()
    np.savez(content, kind=np.asarray(codec.kind), **codec_arrays(codec))
    write_atomically(path, content.getvalue())


def load_anchor_codec(path: Path) -> AnchorCodec:
    """Return the codec that `save_codec` wrote; CacheError if the file is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        codec: AnchorCodec = _rebuilt(_CODECS[arrays.pop("kind").item()], arrays)
    except FileNotFoundError:
        raise CacheError(f"{path}: no such anchor: fit it and save it first") from None
    except (OSError, EOFError, LookupError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error
    return codec


def _rebuilt(kind: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return a codec from what `codec_arrays` returned; raises if a field is missing or left."""
    tables = {name: array for name, array in arrays.items() if name.startswith("tables.")}
    fields: dict[str, Any] = {
        name: array.item() if array.ndim == 0 else array
        for name, array in arrays.items()
        if name not in tables
    }
    if "tables" in {field.name for field in dataclasses.fields(kind)}:
        fields["tables"] = SymbolTables(
            **{name.removeprefix("tables."): array for name, array in tables.items()}
        )
    return kind(**fields)


def _damaged(path: Path, error: Exception) -> CacheError:
    return CacheError(f"{path}: is damaged ({error}): fit the anchor again and save it")
