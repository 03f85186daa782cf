"""The files of images, of each version, made by models of random weights."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analyze.file_format.file_fields import varint
from analyze.file_format.image_file import unpack
from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    DroppedLevel,
    Ensemble,
    FusedLevel,
    PredictedLevel,
)
from analyze.streams.per_image_codec import PerImageCodec
from analyze.streams.pyramid_codec import PyramidCodec
from configs.config_files import check_config
from configs.schema.training import FUSED_PYRAMID
from tests.fuzzing.subject import Subject
from tests.support.coded_study import FACTORIZED, context_of
from tests.support.tiny_codecs import NUM_CHANNELS, PROVENANCE
from train.codecs.catalogue import build_codec
from train.runs.checkpoint import BEST_NAME, encode_checkpoint, load_codec, save_best

_SCALE, _MEAN_SCALE = "scale_hyperprior", "mean_scale_hyperprior"
_MEANS = {level: np.linspace(-1, 1, NUM_CHANNELS, dtype=np.float32) for level in range(5)}
_SIZES = {0: (22, 40), 1: (11, 20), 2: (6, 10), 3: (3, 5), 4: (2, 3)}

Decode = Callable[[bytes], dict[int, NDArray[Any]]]


def without_context(folder: Path) -> Subject:
    """Of version 2: three levels with models of their own, one derived, one dropped."""
    ensemble = Ensemble({
        0: CodedLevel(**_run(folder, FACTORIZED, 0)), 1: CodedLevel(**_run(folder, _SCALE, 1)),
        2: CodedLevel(**_run(folder, "joint_autoregressive", 2)), 3: DerivedLevel(source=2),
        4: DroppedLevel(),
    })  # fmt: skip
    return _of_ensemble(folder, ensemble)


def with_context(folder: Path) -> Subject:
    """Of version 3: a chain of three levels, the finest of which is only predicted."""
    runs = [_run(folder, _MEAN_SCALE, 2)]
    for level in (1, 0):
        runs.insert(0, _run(folder, _MEAN_SCALE, level, beside=runs[0]["run"]))
    ensemble = Ensemble({
        0: PredictedLevel(**runs[0]), 1: CodedLevel(**runs[1]), 2: CodedLevel(**runs[2]),
        3: DroppedLevel(),
    })  # fmt: skip
    return _of_ensemble(folder, ensemble)


def per_image(folder: Path) -> Subject:
    """Of version 4: of an image that chose, of three models and dropping."""
    models = [
        CodedLevel(**_run(folder, name, *levels))
        for name, levels in ((FACTORIZED, (0, 1)), (_SCALE, (1,)), (_MEAN_SCALE, (0,)))
    ]
    codec = PerImageCodec(models, {level: _MEANS[level] for level in range(4)})
    ensemble = Ensemble({0: models[0], 1: models[1], 2: DroppedLevel(), 3: DerivedLevel(source=2)})
    return _subject(folder, _encoded(codec.of(ensemble)), codec.decode)


def fused(folder: Path) -> Subject:
    """Of version 5: three levels in one, one dropped."""
    pyramid = {"num_channels": [NUM_CHANNELS] * 3, "strides": [1, 2, 4]}
    run = _run(folder, FUSED_PYRAMID, 0, 1, 2, pyramid=pyramid)
    ways: dict[int, Any] = {level: FusedLevel(**run) for level in range(3)}
    return _of_ensemble(folder, Ensemble({**ways, 3: DroppedLevel()}))


def _run(
    folder: Path, name: str, *levels: int, beside: Path | None = None, **model: Any
) -> dict[str, Any]:
    """Save a run of untrained weights, latents made large; return what an ensemble says of it."""
    seen = None if beside is None else load_codec(beside / BEST_NAME)
    context = None if seen is None else context_of(seen[0]).model_dump()
    settings = {"name": name, "n_hidden": 8, "n_channels": 12, "context": context, **model}
    config = check_config({"model": settings}, "fuzzing")
    torch.manual_seed(0)
    codec = build_codec(config.model, NUM_CHANNELS, len(levels))
    mean, variance = (np.full((len(levels), NUM_CHANNELS), value) for value in (-20.0, 2500.0))
    codec.set_standardisation(mean, variance)
    if seen is not None:
        codec.beside.set_standardisation(mean[0], variance[0])
    with torch.no_grad():
        for parameter in codec.g_a.parameters():
            parameter.mul_(2)
    codec.eval().update_tables()
    run = folder / f"{name}_{'_'.join(map(str, levels))}"
    run.mkdir()
    provenance = replace(PROVENANCE, context=() if seen is None else (seen[1].model_sha256,))
    save_best(run, encode_checkpoint(
        codec.state_dict(), config, provenance, levels=levels, epoch=1, best_validation_loss=1.0
    ))  # fmt: skip
    return {"run": run, "model_sha256": load_codec(run / BEST_NAME)[1].model_sha256, "lmbda": 0.01}


def _of_ensemble(folder: Path, ensemble: Ensemble) -> Subject:
    means = {
        level: _MEANS[level] for level, how in ensemble.levels.items() if how == DroppedLevel()
    }
    codec = PyramidCodec(ensemble, means)
    return _subject(folder, _encoded(codec), codec.decode)


def _encoded(codec: PyramidCodec) -> bytes:
    rng = np.random.default_rng(1)
    maps = {
        level: rng.normal(-20, 50, (*_SIZES[level], NUM_CHANNELS))
        for level in codec.ensemble.levels
    }
    maps = {level: values.astype(np.float32) for level, values in maps.items()}
    for level, how in codec.ensemble.levels.items():
        if isinstance(how, DerivedLevel):
            maps[level] = maps[how.source][::2, ::2]
    return codec.encode(maps, image_id=300, image_hw=(88, 160))


def _subject(folder: Path, whole: bytes, decode: Decode) -> Subject:
    path, length = folder / "300.fpn", min(60, len(whole) // 2)

    def read() -> object:
        data = path.read_bytes()
        maps = decode(data, str(path))
        sizes = {section.level: section.size_hw for section in unpack(data).sections}
        assert {level: values.shape[:2] for level, values in maps.items()} == sizes
        return maps

    def sealed(body: bytes) -> bytes:
        return body + zlib.crc32(body).to_bytes(4, "little")

    def rendered(raw: dict[str, Any]) -> bytes:
        fields = [each for each in raw.get("head", ()) if type(each) is int]
        head = b"".join(
            bytes([each]) if 0 <= each < 256 else varint(abs(each) % 2**62) for each in fields
        )
        return sealed(head + whole[length:-4])

    return Subject(
        path=path, whole=[whole], read=read, sealed=sealed, body=lambda data: data[:-4],
        contents=[{"head": list(whole[:length])}], rendered=rendered,
    )  # fmt: skip
