"""Rate and distortion are kept under what they depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from analyze.facts.candidates import Candidate
from analyze.facts.kept_results import Kept, KeptResult
from analyze.facts.results import Measurement
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.level_rate_distortion import measured_run
from analyze.measure.split import Split
from train.runs.loaded_models import LoadedModels


class Full(Kept):
    """Holds a result for every key that it is asked for, and remembers the keys."""

    def __init__(self) -> None:
        super().__init__(None)
        self.keys: list[dict[str, Any]] = []

    def get(self, key: Mapping[str, Any]) -> KeptResult:
        self.keys.append(dict(key))
        facts = dict.fromkeys((each.name for each in dataclasses.fields(Measurement)), 0.0)
        return KeptResult(facts=facts, arrays={})


class Anywhere(LoadedModels):
    """Models whose checkpoints need not be there."""

    def is_layer_by_layer(self, run: str | Path) -> bool:
        return self.fast_cpu == "never"


def test_key_has_the_code_of_ones_own_codec_and_is_as_ever_for_ours() -> None:
    kept = Full()
    split = SimpleNamespace(cache=SimpleNamespace(content_id="cache"), num_images=1)
    for code in ("", "own:Codec 1", "own:Codec 2"):
        run = Candidate(folder=Path("run"), level=0, lmbda=0.1, best_validation_loss=1.0, code=code)
        measured_run(run, cast(Split, split), cast(DecodedLevels, None), Anywhere(), kept)
    slow = Anywhere(fast_cpu="never")
    run = dataclasses.replace(run, code="")
    measured_run(run, cast(Split, split), cast(DecodedLevels, None), slow, kept)
    ours, one, other, layers = kept.keys
    assert ours.keys() == {"method", "model", "level", "cache", "images", "device"}
    assert [one, other] == [ours | {"code": f"own:Codec {number}"} for number in (1, 2)]
    assert layers == ours | {"fast_cpu": "never"}
