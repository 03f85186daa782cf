"""Whether a codec keeps the contract of LevelCodec, checked on made-up maps, on the CPU."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from configs.schema.config import Config
from configs.schema.training import ModelConfig, TrainingConfig
from train.codecs.catalogue import build_codec, codec_size
from train.codecs.level_codec import LevelCodec
from train.loop.session import make_optimizers
from train.objective.rate_distortion import rate_bits, rate_distortion
from train.testing.made_up import beside, latents_of, made_up_maps

_SMALL: dict[str, Any] = {
    "stages": 2, "n_hidden": 8, "n_channels": 12, "fpn_channels_per_level": 16,
}  # fmt: skip
_CONFIG = Config(training=TrainingConfig(learning_rate=5e-3, lmbda=0.01))
_END_BITS = 16  # of each string: rANS ends at a byte, with its state in front
_LARGEST_SHARE = 0.01
_ENOUGH = 50  # times what the strings' ends may take: a rate below that proves nothing
_FAR = 5000.0
_SIZES_HW = ((1, 1), (1, 7), (3, 4), (13, 21), (40, 71))

Make = Callable[[], LevelCodec]


def check_codec(
    codec: str | type[LevelCodec] | Make, *, num_steps: int = 60, **settings: Any
) -> None:
    """Raise AssertionError, saying what is wrong, unless a codec keeps the contract.

    `codec` is a name as in `model.name`, or a subclass of LevelCodec, built small unless settings
    of that section are given (`options={"width": 3}, stages=4`; with `context` it sees a made-up
    coarser level); or a function that makes a new, untrained codec. It is trained for `num_steps`
    on one map, which takes seconds; then

    - decompress gives to the bit what forward gives in eval mode, for maps of odd sizes, of one
      position, constant ones and huge ones, also where latents are far outside the tables; and a
      sample's strings do not depend on its neighbours;
    - the strings are as long as forward's likelihoods say, to 1 % and 16 bits a string;
    - latents have the same strings, and strings the same latents, with another number of threads;
    - a codec that is saved and loaded gives the same strings;
    - training that is interrupted goes on as if it had not been, to the bit, in float32.

    Weights, tables and random numbers of the caller do not change.
    """
    make = _maker(codec, settings)
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            _check_resume(make)
            trained = _trained(make, num_steps)
            _check_decoding(trained)
            _check_far_latents(trained)
            _check_rate(trained)
            _check_threads(trained)
            _check_saving(make, trained)
    finally:
        torch.set_num_threads(threads)


def _maker(codec: str | type[LevelCodec] | Make, settings: dict[str, Any]) -> Make:
    if isinstance(codec, type) and issubclass(codec, LevelCodec):
        kind, options = codec, settings.get("options", {})
        small = ModelConfig(**{**_SMALL, **settings, "options": {}})
        return lambda: kind(codec_size(small, small.fpn_channels_per_level), **options)
    if isinstance(codec, type):
        raise TypeError(f"{codec.__name__} is no LevelCodec")
    if isinstance(codec, str):
        model = ModelConfig(**{"name": codec, **_SMALL, **settings})
        return lambda: build_codec(model, model.fpn_channels_per_level)
    if settings:
        raise TypeError(f"{sorted(settings)} are for a codec that is given by its name or class")
    return codec


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Say of any other error, too, what was being checked."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


def _new(make: Make, seed: int = 0) -> LevelCodec:
    torch.manual_seed(seed)
    with _about("a new codec cannot be made"):
        codec = make()
    assert isinstance(codec, LevelCodec), f"{type(codec).__name__} is no LevelCodec"
    num_levels, num_channels = codec.mean.shape
    codec.set_standardisation(
        torch.full((num_levels, num_channels), -2.0, dtype=torch.float64).numpy(),
        torch.full((num_levels, num_channels), 25.0, dtype=torch.float64).numpy(),
    )
    return codec


class _Training:
    """A codec and its optimisers, learning one map by heart."""

    def __init__(self, codec: LevelCodec) -> None:
        self.codec = codec.train()
        self._optimizers = make_optimizers(codec, _CONFIG)
        side = max(64, 12 * codec.stride)
        self._x = made_up_maps(codec, side, side, batch=1)
        self._beside = beside(codec, self._x)

    def train(self, num_steps: int) -> None:
        sizes = torch.tensor([self._x.shape[-2:]])
        for _ in range(num_steps):
            for optimizer in self._optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss, _, _ = rate_distortion(
                self.codec(self._x, **self._beside), self._x, sizes, _CONFIG.training.lmbda
            )
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizers[0].step()
            aux = self.codec.aux_loss()
            if aux.requires_grad:
                aux.backward()
            self._optimizers[1].step()

    def state(self) -> dict[str, Any]:
        return {
            "codec": self.codec.state_dict(),
            "optimizers": [each.state_dict() for each in self._optimizers],
            "random": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.codec.load_state_dict(state["codec"])
        for optimizer, its in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its)
        torch.set_rng_state(state["random"])


def _trained(make: Make, num_steps: int) -> LevelCodec:
    training = _Training(_new(make))
    with _about("training"):
        training.train(num_steps)
    return _ready(training.codec)


def _ready(codec: LevelCodec) -> LevelCodec:
    codec.eval().requires_grad_(False)
    with _about("update_tables"):
        codec.update_tables()
    return codec


def _saved(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _check_resume(make: Make) -> None:
    with _about("training that goes on from what was saved"):
        whole = _Training(_new(make))
        whole.train(2)
        state = _saved(whole.state())
        whole.train(2)
        resumed = _Training(_new(make, seed=1))
        resumed.restore(state)
        resumed.train(2)
    differing = _differing(whole.codec, resumed.codec)
    assert not differing, (
        f"training that goes on from what was saved differs in {differing}: what changes while "
        "training has to be a parameter or a buffer, and random numbers those of torch"
    )


def _differing(one: LevelCodec, other: LevelCodec) -> list[str]:
    theirs = other.state_dict()
    return [key for key, value in one.state_dict().items() if not torch.equal(value, theirs[key])]


def _check_decoding(codec: LevelCodec) -> None:
    cases = {f"maps of {h}x{w}": made_up_maps(codec, h, w) for h, w in _SIZES_HW}
    like = made_up_maps(codec, 20, 30)
    cases["maps of zeros"] = torch.zeros_like(like)
    cases["constant maps"] = torch.full_like(like, 7.0)
    cases["huge maps (10,000)"] = 10_000 * like.sign()
    for what, x in cases.items():
        with _about(what):
            _checkmade_up_maps(codec, x, what)


@torch.no_grad()
def _checkmade_up_maps(codec: LevelCodec, x: Tensor, what: str) -> None:
    given = beside(codec, x)
    expected = codec(x, **given)["x_hat"]
    assert (expected.shape, expected.dtype) == (x.shape, torch.float32), (
        f"{what}: forward gives {expected.dtype} {list(expected.shape)} for {list(x.shape)}"
    )
    packed = codec.compress(x, **given)
    strings, shape = packed["strings"], packed["shape"]
    expected_shape = tuple(-(-side // codec.stride) for side in x.shape[-2:])
    assert shape == expected_shape, (
        f"{what}: latents are {shape}, and with {codec.size.stages} stages have to be "
        f"{expected_shape}"
    )
    numbers = {len(payloads) for payloads in strings}
    assert numbers == {codec.num_payloads}, (
        f"{what}: samples have {sorted(numbers)} strings, num_payloads says {codec.num_payloads}"
    )
    alone = [
        codec.compress(x[row : row + 1], **beside(codec, x, row))["strings"][0]
        for row in range(len(x))
    ]
    assert alone == strings, f"{what}: a sample's strings depend on its neighbours in the batch"
    x_hat = codec.decompress(strings, shape, packed["size"], **given)["x_hat"]
    assert x_hat.shape == x.shape, f"{what}: decompress gives maps of {list(x_hat.shape)}"
    off = (x_hat - expected).abs()
    assert torch.equal(x_hat, expected), (
        f"{what}: decompress differs from forward in eval mode, by {float(off.max()):.3g} at most, "
        f"in {float((off > 0).float().mean()):.1%} of the values: decode_latents has to give what "
        "rounded_latents gives, and features are signed"
    )


@torch.no_grad()
def _check_far_latents(codec: LevelCodec) -> None:
    # Huge maps need not give them: GDN divides by what is large.
    x = made_up_maps(codec, 20, 30)
    y, trail = latents_of(codec, x)
    y = y * (_FAR / y.abs().max())
    with _about("latents far outside the tables"):
        y_hat, _ = codec.rounded_latents(y, *trail)
        shape = (int(y.shape[-2]), int(y.shape[-1]))
        there = codec.decode_latents(codec.encode_latents(y, *trail), shape, *trail)
    assert torch.equal(there, y_hat), (
        f"latents far outside the tables (up to {_FAR:g}) come back otherwise, by "
        f"{float((there - y_hat).abs().max()):.3g} at most: encode_latents must not clamp them"
    )


@torch.no_grad()
def _check_rate(codec: LevelCodec) -> None:
    side = max(64, 12 * codec.stride)
    x = made_up_maps(codec, side, side, batch=1)
    with _about("the rate"):
        estimated = float(rate_bits(codec(x, **beside(codec, x))["likelihoods"]))
        (payloads,) = codec.compress(x, **beside(codec, x))["strings"]
    real = 8 * sum(len(payload) for payload in payloads)
    ends = _END_BITS * len(payloads)
    assert estimated > _ENOUGH * ends, (
        f"the rate: {estimated:.0f} bits for a map of {side}x{side} prove nothing: "
        "train for more num_steps"
    )
    assert abs(real - estimated) <= _LARGEST_SHARE * estimated + ends, (
        f"the rate: {real} bits are written where the likelihoods say {estimated:.0f}: more than "
        f"1 % and {ends} bits apart: are the tables those of the densities?"
    )


@torch.no_grad()
def _check_threads(codec: LevelCodec) -> None:
    x = made_up_maps(codec, 57, 83)
    with _about("another number of threads"):
        torch.set_num_threads(1)
        y, trail = latents_of(codec, x)
        shape = (int(y.shape[-2]), int(y.shape[-1]))
        strings = codec.encode_latents(y, *trail)
        y_hat = codec.decode_latents(strings, shape, *trail)
        torch.set_num_threads(2)
        again = codec.encode_latents(y, *trail)
        there = codec.decode_latents(strings, shape, *trail)
    reason = "what both ends compute must not depend on it: see the head of train/codecs/hyperprior"
    assert again == strings, f"latents have other strings with another number of threads: {reason}"
    assert torch.equal(there, y_hat), (
        f"strings decode to other latents with another number of threads: {reason}"
    )


def _check_saving(make: Make, codec: LevelCodec) -> None:
    with _about("a codec that was saved and loaded"):
        loaded = _new(make, seed=1)
        loaded.load_state_dict(_saved(codec.state_dict()))
        x = made_up_maps(codec, 33, 45)
        expected, packed = (
            each.compress(x, **beside(each, x))["strings"] for each in (codec, _ready(loaded))
        )
    assert packed == expected, (
        "a codec that was saved and loaded writes other strings: all that was learned has to be a "
        "parameter or a buffer"
    )
