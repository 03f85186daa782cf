"""Rate and distortion are kept under what they depend on, and do not depend on threads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from analyze.facts.candidates import Candidate
from analyze.facts.kept_results import Kept, KeptResult
from analyze.facts.results import Measurement
from analyze.maps.map_source import DecodedMaps
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.level_rate_distortion import measure_level, measured_run
from analyze.measure.split import Split
from configs.errors import CacheError, ConfigError
from data.reading.level_reader import LevelReader
from tests.support.devices import DEVICES
from tests.support.extraction import TinyCache
from tests.support.tiny_codecs import NAMES, tiny_model
from tests.support.torch_cores import cores
from train.codecs.catalogue import build_codec
from train.codecs.level_codec import LevelCodec
from train.runs.checkpoint import RunInfo
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


def test_sums_that_were_kept_without_the_images_are_measured_again_where_these_are_needed() -> None:
    """Kept results of earlier versions hold no arrays."""
    split = SimpleNamespace(cache=SimpleNamespace(content_id="cache"), num_images=1)
    run = Candidate(folder=Path("run"), level=0, lmbda=0.1, best_validation_loss=1.0)
    with_sums = partial(
        measured_run, run, cast(Split, split), cast(DecodedLevels, None), Anywhere(), Full()
    )
    assert with_sums().of_images is None
    with pytest.raises(ConfigError, match="run"):  # there is none to measure
        with_sums(image_by_image=True)


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


def codec_of_the_level(device: str, name: str = NAMES[0]) -> LevelCodec:
    torch.manual_seed(0)
    codec = build_codec(tiny_model(name), 256).to(device).eval()
    codec.update_tables()
    return codec


def measured(
    cache: TinyCache, folder: Path, codec: LevelCodec, num_cores: int
) -> tuple[Measurement, list[bytes]]:
    """Measure level 2 of the cache; return that, without times, and the decoded maps."""
    run = cast(RunInfo, SimpleNamespace(model_sha256="ab" * 32, lmbda=0.1, num_parameters=1))
    with cores(num_cores), LevelReader(cache.folder, 2) as reader:
        indices = range(reader.num_samples)
        file = folder / str(num_cores)
        decoded = DecodedMaps(file, [reader.shape(each) for each in indices], reader.dtype)
        found, of_images = measure_level(codec, run, reader, indices, decoded, "run")
        without, _ = measure_level(codec, run, reader, indices, None, "run")
        elements = reader.shapes.prod(axis=1).sum()
        pixels = sum(each.height * each.width for each in reader.manifest.samples)
        maps = [decoded.read(index).tobytes() for index in indices]
    assert found.encode_ms > 0 and found.decode_ms > 0
    found, without = (replace(each, encode_ms=0.0, decode_ms=0.0) for each in (found, without))
    assert found == without
    assert len(of_images.bits) == len(maps)
    assert of_images.bits.sum() / pixels == pytest.approx(found.bits_per_pixel)
    assert of_images.squared_error.sum() / elements == pytest.approx(found.mse)
    return found, maps


@pytest.mark.parametrize("device", DEVICES)
def test_coding_beside_transforms_changes_no_bit(
    zarr_cache: TinyCache, tmp_path: Path, device: str
) -> None:
    codec = codec_of_the_level(device)
    assert measured(zarr_cache, tmp_path, codec, 1) == measured(zarr_cache, tmp_path, codec, 3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_measures_what_the_cpu_measures(
    zarr_cache: TinyCache, tmp_path: Path, name: str
) -> None:
    (tmp_path / "cuda").mkdir()
    on_cpu, _ = measured(zarr_cache, tmp_path, codec_of_the_level("cpu", name), 2)
    on_gpu, _ = measured(zarr_cache, tmp_path / "cuda", codec_of_the_level("cuda", name), 2)
    # Latents near the middle between two symbols may fall to either side.
    for field in ("mse", "estimated_bpp", "real_bpp"):
        assert getattr(on_gpu, field) == pytest.approx(getattr(on_cpu, field), rel=0.05)


def test_error_of_a_coder_beside_others_is_one_line(zarr_cache: TinyCache, tmp_path: Path) -> None:
    codec = codec_of_the_level("cpu")
    encode_latents, calls = codec.encode_latents, 0

    def lose_the_fourth(y: Tensor) -> list[list[bytes]]:
        nonlocal calls
        calls += 1
        return encode_latents(y * float("nan") if calls == 4 else y)

    codec.encode_latents = lose_the_fourth  # type: ignore[method-assign]
    with pytest.raises(CacheError, match=r"latents are not finite.*train it again") as caught:
        measured(zarr_cache, tmp_path, codec, 3)
    assert "\n" not in str(caught.value)
