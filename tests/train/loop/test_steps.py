"""What a training step asks of a codec."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from data.reading.transfer import on_device
from tests.benchmarks.codec_training import trainer
from tests.support.extraction import TinyCache
from train.codecs.factorized import FactorizedPrior
from train.codecs.level_codec import LevelCodec


def test_a_forward_of_ones_own_is_given_float32_alone_and_learns_the_same(
    zarr_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def own(codec: LevelCodec, x: Tensor) -> dict[str, Any]:
        seen.append(x.dtype)
        return LevelCodec.forward(codec, x)

    def trained() -> dict[str, Tensor]:
        model = {"n_hidden": 4, "n_channels": 6}
        with trainer(
            zarr_cache.folder, 3, precision="float32", batch_size=2, model=model
        ) as training:
            for batch, x in on_device(training.session.stream, "cpu"):
                training(batch, x.half())  # as a GPU has it
            return training.session.codec.state_dict()

    ours = trained()
    monkeypatch.setattr(FactorizedPrior, "forward", own)
    theirs = trained()
    assert set(seen) == {torch.float32}
    for name, values in ours.items():
        torch.testing.assert_close(theirs[name], values)
