"""Levels that are coded in one go through files as any others, and damage in them is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyze.file_format.image_file import pack, unpack
from analyze.file_format.section_heads import Kind
from analyze.maps.map_source import as_batch
from analyze.streams.compression import compress_cache
from analyze.streams.decompression import decompress_folder
from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    Ensemble,
    FusedLevel,
    ensemble_of_runs,
    parse_levels,
    plain_levels,
    read_ensemble,
    write_ensemble,
)
from analyze.streams.per_image_codec import PerImageCodec
from analyze.streams.pyramid_codec import PyramidCodec
from analyze.streams.streams_index import image_path
from configs.errors import CacheError, ConfigError
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from tests.support.context_chain import untrained_run
from tests.support.fused_runs import Fused, fused_job
from tests.support.fused_runs import fused as fused
from train.codecs.fused_pyramid import FusedPyramid
from train.runs.loaded_models import LoadedModels


@pytest.fixture(scope="module")
def models() -> LoadedModels:
    return LoadedModels()


def ensemble_of(fused: Fused, models: LoadedModels) -> Ensemble:
    return ensemble_of_runs(
        [fused.run], CacheFolder(fused.features / "val").manifest.levels, models
    )


def first_file(fused: Fused, codec: PyramidCodec) -> bytes:
    cache = CacheFolder(fused.features / "val")
    maps = {}
    for level in codec.ensemble.levels:
        with LevelReader(cache, level) as reader:
            maps[level] = np.array(reader.sample(0))
    return codec.encode(maps, image_id=7, image_hw=(96, 128))


def test_decompressed_cache_is_the_models_eval_output_and_the_file_has_one_payload(
    fused: Fused, models: LoadedModels, tmp_path: Path
) -> None:
    cache = CacheFolder(fused.features / "val")
    done = compress_cache(cache, ensemble_of(fused, models), tmp_path / "streams", models=models)
    coarser = [size for level, size in done.level_bytes.items() if level]
    assert max(coarser) <= 7 * done.num_images < done.level_bytes[0]
    decoded = decompress_folder(tmp_path / "streams", tmp_path / "decoded").cache
    codec = models.codec(fused.run)
    assert isinstance(codec, FusedPyramid)
    levels = models.info(fused.run).levels
    for index in range(done.num_images):
        maps = []
        for level in levels:
            with LevelReader(cache, level) as reader:
                maps.append(as_batch(reader.sample(index)))
        with torch.no_grad():
            expected = codec(maps)["x_hat"]
        for level, x_hat in zip(levels, expected, strict=True):
            with LevelReader(CacheFolder(decoded), level) as reader:
                there = torch.tensor(reader.sample(index)).permute(2, 0, 1)
            assert torch.equal(there, x_hat[0].to(there.dtype))


def test_an_ensemble_names_the_model_at_each_of_its_levels(
    fused: Fused, models: LoadedModels, tmp_path: Path
) -> None:
    ensemble = ensemble_of(fused, models)
    assert [type(how) for how in ensemble.levels.values()] == [FusedLevel] * 4 + [DerivedLevel]
    write_ensemble(tmp_path / "ensemble.yaml", ensemble)
    again = read_ensemble(tmp_path / "ensemble.yaml")
    assert PyramidCodec(again, {}).ensemble_id == PyramidCodec(ensemble, {}).ensemble_id
    plain = plain_levels(ensemble, tmp_path)
    plain[0]["fused"] = False
    with pytest.raises(ConfigError, match="or with `fused: true` if its model codes several"):
        parse_levels(plain, tmp_path / "ensemble.yaml")


def test_a_fused_model_codes_all_of_its_levels_or_none(
    fused: Fused, models: LoadedModels, tmp_path: Path
) -> None:
    ensemble = ensemble_of(fused, models)
    how = ensemble.levels[1]
    assert isinstance(how, FusedLevel)
    coded = CodedLevel(run=how.run, model_sha256=how.model_sha256, lmbda=how.lmbda)
    with pytest.raises(ConfigError, match=r"level 1: .* codes the levels .* in one: write `fused:"):
        PyramidCodec(Ensemble({**ensemble.levels, 1: coded}), {}, models)
    single = untrained_run(fused_job(fused.features, tmp_path, level=1))
    other = replace(coded, run=single, model_sha256=models.info(single).model_sha256)
    with pytest.raises(ConfigError, match=r"levels \[0, 2, 3\] cannot be fused by"):
        PyramidCodec(Ensemble({**ensemble.levels, 1: other}), {}, models)
    wrong = replace(how, run=single, model_sha256=models.info(single).model_sha256)
    with pytest.raises(ConfigError, match=r"which codes the levels .* singly"):
        PyramidCodec(Ensemble({1: wrong}), {}, models)
    stored = CacheFolder(fused.features / "val").manifest.levels
    with pytest.raises(ConfigError, match="both serve level 1: name one"):
        ensemble_of_runs([fused.run, single], stored, models)
    with pytest.raises(ConfigError, match="none of them by itself: name a run of this level"):
        PerImageCodec([coded], {1: np.zeros(256, np.float32)}, models)


def test_damage_in_the_payload_is_named_for_all_levels(fused: Fused, models: LoadedModels) -> None:
    codec = PyramidCodec(ensemble_of(fused, models), {}, models)
    image = unpack(first_file(fused, codec))
    first, *others = image.sections
    assert [section.kind for section in image.sections] == [Kind.FUSED] * 4 + [Kind.DERIVED]
    torn = replace(first, payloads=(first.payloads[0][:-1], first.payloads[1]))
    with pytest.raises(
        CacheError, match=r"x.fpn: levels 0 and 1 and 2 and 3, coded in one: the pa"
    ):
        codec.decode(pack(replace(image, sections=(torn, *others))), "x.fpn")
    for changed in (replace(first, stages=3), replace(first, payloads=first.payloads[:1])):
        with pytest.raises(CacheError, match="level 0 is not as its model codes it"):
            codec.decode(pack(replace(image, sections=(changed, *others))))
    forged = replace(others[0], size_hw=(2**11, 2**11))
    rest = (replace(each) for each in others[1:])
    with pytest.raises(CacheError, match="level 1 has 2048 x 2048 positions, beside level 0"):
        codec.decode(pack(replace(image, sections=(first, forged, *rest))))


def test_files_of_another_way_of_sending_are_not_taken_for_their_own(
    fused: Fused, models: LoadedModels, tmp_path: Path
) -> None:
    ensemble = ensemble_of(fused, models)
    cache = CacheFolder(fused.features / "val")
    done = compress_cache(cache, ensemble, tmp_path, models=models)
    again = compress_cache(cache, ensemble, tmp_path, models=models)
    assert (again.num_new_images, again.num_bytes) == (0, done.num_bytes)
    image_id = cache.manifest.samples[0].image_id
    path = image_path(tmp_path, image_id)
    image = unpack(path.read_bytes())
    path.write_bytes(pack(replace(image, ensemble_id=b"another!")))
    assert compress_cache(cache, ensemble, tmp_path, models=models).num_new_images == 1
