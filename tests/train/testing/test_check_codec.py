"""The suite for codecs of one's own passes ours, and finds each way to break the contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from train.codecs.catalogue import MODELS
from train.codecs.factorized import FactorizedPrior
from train.codecs.layers.transforms import CodecSize
from train.testing import check_codec

SIZE = CodecSize(num_channels=16, n_hidden=8, n_channels=12, stages=2)


@pytest.mark.parametrize("name", list(MODELS))
def test_our_own_models_pass(name: str) -> None:
    check_codec(name)


def test_four_stages_pass() -> None:
    check_codec("factorized_prior_specific_level", stages=4)


def test_a_class_is_made_with_its_options() -> None:
    check_codec(WithAWidth, num_steps=30, options={"width": 12})
    with pytest.raises(AssertionError, match="a new codec cannot be made: TypeError"):
        check_codec(WithAWidth, options={"height": 12})
    with pytest.raises(TypeError, match="int is no LevelCodec"):
        check_codec(int)  # type: ignore[arg-type]


def test_random_numbers_and_threads_of_the_caller_stay() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    check_codec(lambda: FactorizedPrior(SIZE), num_steps=30)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


class WithAWidth(FactorizedPrior):
    def __init__(self, size: CodecSize, *, width: int) -> None:
        super().__init__(size)
        assert width == 12


class Clamps(FactorizedPrior):
    """As CompressAI's models, which code pictures."""

    def decompress(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {"x_hat": super().decompress(*args, **kwargs)["x_hat"].clamp(0, 1)}


class DropsASymbol(FactorizedPrior):
    def encode_latents(self, y: Tensor) -> list[list[bytes]]:
        y = y.clone()
        y[:, 0, -1, -1] += 1
        return super().encode_latents(y)


class EstimatesTooFew(FactorizedPrior):
    def rounded_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y_hat, likelihoods = super().rounded_latents(y)
        return y_hat, {"y": likelihoods["y"] ** 0.97}


class NeedsTwoPositions(FactorizedPrior):
    def encode_latents(self, y: Tensor) -> list[list[bytes]]:
        if y.shape[-1] == 1:
            raise RuntimeError("kernel is larger than the map")
        return super().encode_latents(y)


class CannotReachFar(FactorizedPrior):
    def encode_latents(self, y: Tensor) -> list[list[bytes]]:
        return super().encode_latents(y.clamp(-127, 127))


class CropsOddMaps(FactorizedPrior):
    def restored(self, y_hat: Tensor, height: int, width: int) -> Tensor:
        return super().restored(y_hat, height - height % 2 or 1, width)


class SaysOneString(FactorizedPrior):
    num_payloads = 2


class CodesByTheBatch(FactorizedPrior):
    def latents(self, x: Tensor) -> Tensor:
        return super().latents(x) + (len(x) - 1)


class DependsOnThreads(FactorizedPrior):
    def decode_latents(self, strings: Sequence[Sequence[bytes]], shape: tuple[int, int]) -> Tensor:
        return super().decode_latents(strings, shape) + 1e-6 * (torch.get_num_threads() - 1)


class KeepsAWeightAside(FactorizedPrior):
    def __init__(self, size: CodecSize) -> None:
        super().__init__(size)
        self._gain = 1 + torch.rand(1)

    def latents(self, x: Tensor) -> Tensor:
        return super().latents(x) * self._gain


class CountsItsSteps(FactorizedPrior):
    _steps = 0

    def noisy_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self._steps += 1
        return super().noisy_latents(y * (1 + 0.01 * self._steps))


class IsNoCodec(torch.nn.Module):
    def __init__(self, size: CodecSize) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Clamps, "maps of 1x1: decompress differs from forward in eval mode, by .* signed"),
        (DropsASymbol, "maps of 1x1: decompress differs from forward"),
        (EstimatesTooFew, "the rate: .* bits are written where the likelihoods say"),
        (NeedsTwoPositions, "maps of 1x1: RuntimeError: kernel is larger than the map"),
        (CannotReachFar, r"latents far outside the tables \(up to 5000\) come back otherwise"),
        (CropsOddMaps, r"maps of 3x4: forward gives torch.float32 \[2, 16, 2, 4\]"),
        (SaysOneString, r"samples have \[1\] strings, num_payloads says 2"),
        (CodesByTheBatch, "a sample's strings depend on its neighbours"),
        (DependsOnThreads, "strings decode to other latents with another number of threads"),
        (
            KeepsAWeightAside,
            "a codec that was saved and loaded writes other strings",
        ),
        (CountsItsSteps, "training that goes on from what was saved differs in"),
        (IsNoCodec, "IsNoCodec is no LevelCodec"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_codec_is_caught_by_the_check_meant_for_it(
    broken: Callable[[CodecSize], Any], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_codec(lambda: broken(SIZE), num_steps=30)


class SaysItIsFree(FactorizedPrior):
    def rounded_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return super().rounded_latents(y)[0], {"y": torch.ones_like(y)}


def test_a_rate_that_proves_nothing_is_no_pass() -> None:
    with pytest.raises(AssertionError, match=r"0 bits for .* prove nothing: train for more"):
        check_codec(lambda: SaysItIsFree(SIZE), num_steps=5)


def test_settings_are_for_a_codec_that_is_named() -> None:
    with pytest.raises(TypeError, match=r"\['stages'\] are for a codec that is given by its name"):
        check_codec(lambda: FactorizedPrior(SIZE), stages=3)
