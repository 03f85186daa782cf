"""Checkpoints, and results that are kept between analyses."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
import yaml

from analyze.facts.kept_results import Kept, KeptResult
from configs.config_files import check_config
from configs.errors import UserError
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from extract.detector.weights import read_checkpoint
from tests.fuzzing.subject import Subject
from tests.support.small_caches import random_maps, write_maps
from tests.support.tiny_codecs import PROVENANCE
from train.codecs.catalogue import build_codec
from train.loop.beginning import go_on_from
from train.loop.session import new_session
from train.runs.checkpoint import LAST_NAME, encode_checkpoint, load_codec, load_last
from train.runs.checkpoint_file import sealed

_NUM_CHANNELS = 4
_SEAL_BYTES = 16


def _forgeries() -> tuple[Any, ...]:
    """What stands in a checkpoint where another tensor belongs."""
    return (
        torch.zeros(1).expand(10**9), torch.zeros(1).as_strided((10**6, 10**6), (0, 0)),
        torch.zeros(0), torch.zeros(1), torch.zeros(3, dtype=torch.int64), torch.zeros(2, 3, 4, 5),
        torch.full((1, _NUM_CHANNELS), float("nan")), torch.zeros(4, dtype=torch.complex64),
        torch.zeros(2, 2).to_sparse(), torch.zeros(3, device="meta"), torch.tensor(float("inf")),
        torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.int64), [], (10**6, 10**6)),
        torch.zeros(5000, dtype=torch.uint8), torch.zeros(3, dtype=torch.bool), b"\0" * 9, (1, 2),
        "evil:Codec", "fused_pyramid", "mean_scale_hyperprior", {1, 2}, 10**7,
    )  # fmt: skip


def checkpoint(folder: Path) -> Subject:
    """last_model.pth of a run of few weights, from which coding and training both go on."""
    model = {"stages": 1, "n_hidden": 2, "n_channels": 3}
    config = check_config({"model": model}, "fuzzing")
    cache = write_maps(folder / "cache", random_maps([(8, 8)] * 3, _NUM_CHANNELS, seed=1))
    stream = LevelStream(LevelReader(cache, 0), batch_size=2, crop=8)
    codec = build_codec(config.model, _NUM_CHANNELS)
    session = new_session(codec, codec, stream, config, "cpu")
    for optimizer in (session.optimizer, session.aux_optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    content = encode_checkpoint(
        codec.state_dict(), config, PROVENANCE, levels=(0,), epoch=1, best_validation_loss=1.0,
        training_state=session.state(),
    )  # fmt: skip
    raw = torch.load(io.BytesIO(content), weights_only=True)
    raw["config"] = {"model": model, "training": {"lambda": 0.01, "epochs": 3}}
    path = folder / LAST_NAME

    def rendered(raw: Any) -> bytes:
        if isinstance(raw, dict) and isinstance(raw.get("config"), dict):
            raw = raw | {"config": yaml.dump(raw["config"])}
        body = io.BytesIO()
        torch.save(raw, body)
        return sealed(body.getvalue())

    def go_on() -> None:
        there = load_last(folder)
        assert there is not None
        # A new one each time, as for a command: what one file says is not to meet the next.
        go_on_from(there, new_session(codec, codec, stream, config, "cpu"), folder)

    def read() -> object:
        errors: list[UserError] = []
        for use in (lambda: load_codec(path), go_on):
            try:
                use()
            except UserError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return codec

    return Subject(
        path=path, whole=[content], read=read, sealed=sealed, body=lambda data: data[:-_SEAL_BYTES],
        contents=[raw], rendered=rendered, odd_values=_forgeries(),
    )  # fmt: skip


def weights_of_others(folder: Path) -> Subject:
    """Weights as any loop saves them: as an archive, and in the form of before, one by one."""
    state: dict[str, Any] = {f"layer.{n}.weight": torch.arange(6.0).view(2, 3) for n in range(3)}
    raw = {"model": state, "epoch": 3, "args": {"lr": 0.1}, "best": np.float64(0.5)}
    path = folder / "weights.pth"

    def rendered(raw: Any, *, as_zip: bool = True) -> bytes:
        body = io.BytesIO()
        torch.save(raw, body, _use_new_zipfile_serialization=as_zip)
        return body.getvalue()

    return Subject(
        path=path, whole=[rendered(raw), rendered(raw, as_zip=False)],
        read=lambda: read_checkpoint(str(path)), contents=[raw], rendered=rendered,
        odd_values=_forgeries(),
    )  # fmt: skip


def kept_result(folder: Path) -> Subject:
    """A result with some arrays, under a key."""
    kept, key = Kept(folder / "kept"), {"method": "rate 1", "model": "ab12"}
    arrays = {"bits": np.arange(6.0), "errors": np.ones((2, 3), np.float32), "zeros": np.zeros(999)}
    kept.put(key, {"mse": 0.25, "name": "one"}, arrays)
    (path,) = (folder / "kept").iterdir()
    data = path.read_bytes()
    with np.load(io.BytesIO(data[:-_SEAL_BYTES])) as archive:
        content = {name: archive[name].tolist() for name in archive.files}

    def resealed(body: bytes) -> bytes:
        return body + xxhash.xxh3_128_digest(body)

    def rendered(raw: Any) -> bytes:
        body = io.BytesIO()
        np.savez_compressed(body, **{str(name): _array(value) for name, value in raw.items()})
        return resealed(body.getvalue())

    def read() -> KeptResult | None:
        return kept.get(key)

    return Subject(
        path=path, whole=[data], read=read, sealed=resealed, body=lambda data: data[:-_SEAL_BYTES],
        contents=[content], rendered=rendered, odd_values=([0.0] * 20_000, 1j, b"\0"),
    )  # fmt: skip


def _array(value: Any) -> Any:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        return np.array([value, None], dtype=object)
