"""What a run decodes of a split is stored once: the codec's own output, whatever interrupted it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from configs.errors import CacheError, ConfigError
from data.cache.annotations import ANNOTATIONS_NAME, boxes_sha256, read_annotations
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from data.writing.decoded import within_range
from tests.support.context_chain import Chain, linked_features, other_weights
from tests.support.context_chain import chain as chain
from tests.support.extraction import TinyCache
from train.codecs.layers.context_path import Context
from train.context import decoded_cache as module
from train.context import decoded_plan
from train.context.context_runs import runs_beside
from train.context.decoded_cache import DecodedCache, decoded_cache
from train.runs.checkpoint import BEST_NAME, load_codec
from train.runs.loaded_models import LoadedModels


class StopError(Exception):
    pass


def maps_of(cache: CacheFolder, level: int) -> list[torch.Tensor]:
    """Each sample as a batch of one, [1, C, H, W]."""
    with LevelReader(cache, level) as reader:
        samples = [np.array(reader.sample(index)) for index in range(reader.num_samples)]
    return [torch.from_numpy(each).permute(2, 0, 1)[None] for each in samples]


def decoded_by(chain: Chain, run: Path) -> DecodedCache:
    return decoded_cache(run, chain.train, models=LoadedModels())


def test_each_sample_is_what_the_codec_decodes_beside_the_coarser_levels(chain: Chain) -> None:
    fine, coarse = decoded_by(chain, chain.fine), decoded_by(chain, chain.coarse)
    codec, info = load_codec(chain.fine / BEST_NAME)
    beside = zip(maps_of(coarse.maps, 3), maps_of(coarse.trail, 3), strict=True)
    wanted = [
        codec.decoded(x.float(), Context(*each))
        for x, each in zip(maps_of(chain.train, 2), beside, strict=True)
    ]
    for number, (maps, trail) in enumerate(
        zip(maps_of(fine.maps, 2), maps_of(fine.trail, 2), strict=True)
    ):
        assert maps.dtype == torch.float16 and trail.dtype == torch.float32
        assert float(trail.abs().max()) > 1, "latents that say nothing prove nothing"
        assert torch.equal(trail, wanted[number].trail)
        torch.testing.assert_close(maps.float(), wanted[number].maps, rtol=1e-3, atol=1e-3)
    manifest = fine.trail.manifest
    assert (manifest.level(2).num_channels, manifest.level(2).stride_px) == (24, 16 * 16)
    assert manifest.decoded_from is not None
    assert info.model_sha256 in manifest.decoded_from and info.context[0] in manifest.decoded_from
    assert fine.maps.path.parent.parent.name == info.model_sha256[:16]
    boxes = [read_annotations(each.path / ANNOTATIONS_NAME, "train") for each in
             (chain.train, fine.maps)]  # fmt: skip
    assert boxes_sha256(boxes[0]) == boxes_sha256(boxes[1])


def test_what_is_finished_is_found_without_the_codec(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = decoded_by(chain, chain.fine)
    monkeypatch.delattr(LoadedModels, "codec")
    assert decoded_by(chain, chain.fine).maps.path == before.maps.path


def test_interrupted_it_goes_on_unit_by_unit_to_the_same_bytes(
    chain: Chain, zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decoded_by(chain, chain.coarse)
    source = CacheFolder(linked_features(zarr_cache, tmp_path / "features") / "train")
    monkeypatch.setattr(decoded_plan, "_UNIT_BYTES", 1)  # a unit for each image
    seen = 0

    def ask() -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise StopError

    for _ in range(2):
        try:
            here = decoded_cache(
                chain.coarse, source, models=LoadedModels(), between_batches=ask
            )  # fmt: skip
        except StopError:
            continue
    assert seen == len(source.manifest.samples) + 1, (
        "two images are whole, the third is decoded twice"
    )
    for part in ("maps", "trail"):
        pairs = zip(maps_of(getattr(here, part), 3), maps_of(getattr(whole, part), 3), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_a_file_that_is_gone_is_made_again(
    chain: Chain, zarr_cache: TinyCache, tmp_path: Path
) -> None:
    source = CacheFolder(linked_features(zarr_cache, tmp_path / "features") / "train")
    whole = decoded_cache(chain.coarse, source, models=LoadedModels())
    before = maps_of(whole.maps, 3)
    for shard in sorted(whole.maps.path.glob("level_3.zarr/**/c.*"))[:1]:
        shard.unlink()
    with pytest.raises(CacheError, match="incomplete"):
        maps_of(CacheFolder(whole.maps.path), 3)
    again = decoded_cache(chain.coarse, source, models=LoadedModels())
    assert all(map(torch.equal, maps_of(again.maps, 3), before))


def test_another_content_of_the_split_replaces_what_was_decoded(
    chain: Chain, zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CacheFolder(linked_features(zarr_cache, tmp_path / "features") / "train")
    before = decoded_cache(chain.coarse, source, models=LoadedModels()).maps.manifest
    other = CacheFolder(source.path)
    other.__dict__["content_id"] = "of other images"
    after = decoded_cache(chain.coarse, other, models=LoadedModels()).maps
    assert after.manifest.decoded_from != before.decoded_from
    assert len(maps_of(after, 3)) == len(before.samples)


def test_a_disk_without_room_is_told_before_anything_is_written(
    chain: Chain, zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = linked_features(zarr_cache, tmp_path / "features")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CacheError, match=r"takes \d+\.\d+ MB, 0\.00 MB are free: make room"):
        decoded_cache(chain.coarse, CacheFolder(features / "train"), models=LoadedModels())
    assert not (features / "decoded").exists()


def test_a_context_run_of_other_weights_is_not_taken_and_a_moved_one_is_found(
    chain: Chain, tmp_path: Path
) -> None:
    def moved(*runs: Path) -> Sequence[Path]:
        places = [tmp_path / run.parent.name / run.name for run in runs]
        for run, place in zip(runs, places, strict=True):
            shutil.copytree(run, place)
        return places

    (fine,) = moved(chain.fine)
    assert runs_beside(fine, LoadedModels()) == [str(chain.coarse.resolve())]
    hidden = chain.coarse.rename(chain.coarse.with_name("away"))
    try:
        with pytest.raises(ConfigError, match="bring that run back, or train this one again"):
            runs_beside(fine, LoadedModels())
    finally:
        hidden.rename(chain.coarse)
    original = (chain.coarse / BEST_NAME).read_bytes()
    (coarse,) = moved(chain.coarse)
    try:
        other_weights(chain.coarse)
        assert runs_beside(fine, LoadedModels()) == [str(coarse)]
    finally:
        (chain.coarse / BEST_NAME).write_bytes(original)


def test_values_beyond_the_stored_type_are_clipped() -> None:
    values = np.array([1e6, -1e6, 2.0], dtype=np.float32)
    assert_array_equal(within_range(values, "float16").numpy(), [65504, -65504, 2])
    assert_array_equal(within_range(values, "float32").numpy(), values, strict=True)


def test_own_latents_of_another_size_are_told(chain: Chain) -> None:
    plan = decoded_by(chain, chain.coarse).trail.manifest
    with pytest.raises(ConfigError, match=r"the codec decodes \(2, 2, 12\) where its settings say"):
        module._to_store(torch.zeros(1, 12, 2, 2), plan, 3, 0)
