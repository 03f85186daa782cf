"""What lies beside the files of images: the index of a folder, and the ensemble."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from analyze.streams.decompression import decoded_manifest
from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    DroppedLevel,
    Ensemble,
    FusedLevel,
    PredictedLevel,
    ensemble_text,
    read_ensemble,
)
from analyze.streams.per_image_codec import models_id
from analyze.streams.pyramid_codec import ensemble_id
from analyze.streams.streams_index import FILE_NAME as INDEX_NAME
from analyze.streams.streams_index import PerImageIndex, StreamsIndex, load_index
from data.cache.manifest import Manifest
from tests.fuzzing.of_caches import believed, small_manifest
from tests.fuzzing.subject import Subject


def streams_index(folder: Path) -> Subject:
    """streams.json of an ensemble, and one of images that chose their models."""
    plan, mean = small_manifest(), np.array([0.5, -1], np.float32)
    run = folder / "runs" / "a"
    coded = CodedLevel(run=run, model_sha256="ab" * 32, lmbda=0.01)
    ensemble = Ensemble({0: coded, 1: DroppedLevel(), 2: DerivedLevel(source=1)})
    means = dict.fromkeys(range(3), mean)
    StreamsIndex(
        ensemble=ensemble, means={1: mean}, manifest=plan,
        ensemble_id=ensemble_id(ensemble, {1: mean}),
    ).save(folder)  # fmt: skip
    path = folder / INDEX_NAME
    whole = [path.read_bytes()]
    PerImageIndex(
        models=(coded,), models_id=models_id([coded], means), means=means, manifest=plan,
        chosen={"slope": 0.5, "measured": "rate"},
    ).save(folder)  # fmt: skip
    whole.append(path.read_bytes())

    def rendered(raw: Any) -> bytes:
        with suppress(Exception):  # whoever forges a manifest writes its fingerprint beside it
            raw["cache_fingerprint"] = Manifest.from_json(raw["manifest"]).fingerprint
        return json.dumps(raw).encode()

    def read() -> object:
        index = load_index(folder)
        if isinstance(index, StreamsIndex):
            ensemble_id(index.ensemble, index.means)
        else:
            models_id(index.models, index.means)
        return believed(decoded_manifest(index), folder / "decoded"), index.origin

    return Subject(
        path=path, whole=whole, read=read, contents=[json.loads(data) for data in whole],
        rendered=rendered, odd_values=("dropped", "ab" * 32, "../../run", {"derived_from": 0}),
    )  # fmt: skip


def ensemble(folder: Path) -> Subject:
    """ensemble.yaml with each way to send a level."""
    facts: dict[str, Any] = {"run": folder / "run", "model_sha256": "ab" * 32, "lmbda": 0.01}
    ways = Ensemble({
        0: CodedLevel(**facts), 1: PredictedLevel(**facts), 2: FusedLevel(**facts),
        3: DerivedLevel(source=2), 4: DroppedLevel(),
    })  # fmt: skip
    text = ensemble_text(ways, folder, note="a comment")
    path = folder / "ensemble.yaml"

    def read() -> object:
        found = read_ensemble(path)
        return ensemble_id(found, {level: np.zeros(2) for level in found.levels})

    return Subject(
        path=path, whole=[text.encode()], read=read, contents=[yaml.safe_load(text)],
        rendered=lambda raw: yaml.dump(raw).encode(errors="surrogatepass"),
        odd_values=("dropped", {"derived_from": 0}, {1: 2}, "ab" * 32, {3}, b"\0"),
    )  # fmt: skip
