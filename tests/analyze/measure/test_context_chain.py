"""Analysis of runs that see the coarser level: they are measured as their files are decoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyze.allocation import choice
from analyze.allocation.allocate import allocate
from analyze.allocation.search import Target
from analyze.analysis import runs_of
from analyze.choosing import measured_split
from analyze.facts.candidates import predicted_ways
from analyze.facts.kept_results import Kept
from analyze.file_format.image_file import section_bytes, unpack
from analyze.maps.map_source import as_batch
from analyze.measure.context_chain import ContextChain
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.find_runs import trained_runs
from analyze.measure.level_rate_distortion import measured_run
from analyze.measure.split import Split, open_split
from analyze.request import AnalysisRequest
from analyze.streams.compression import compress_cache
from analyze.streams.decompression import decompress_folder
from analyze.streams.ensemble import (
    CodedLevel,
    Ensemble,
    ModelLevel,
    PredictedLevel,
    ensemble_of_runs,
)
from analyze.streams.pyramid_codec import PyramidCodec
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from tests.support.coded_study import make_chain, make_run
from tests.support.tiny_study import TinyStudy
from train.runs.loaded_models import LoadedModels

MODEL = "factorized_prior_specific_level"


@pytest.fixture(scope="module")
def runs(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of the levels 0 to 3, each beside the next."""
    return make_chain(tmp_path_factory.mktemp("chain"), study, MODEL, range(4))


def opened(study: TinyStudy) -> Split:
    cache = CacheFolder(study.val_cache)
    return open_split(cache, "val", study.config, device="cpu", limit=None, classes=(), options="")


def test_contextual_run_is_measured_as_its_files_are_decoded(
    study: TinyStudy, runs: list[Path], tmp_path: Path
) -> None:
    models = LoadedModels()
    with opened(study) as split:
        found = trained_runs(runs, split.cache, models).special
        assert [len(each.chain) for each in found] == [3, 2, 1, 0]
        (tmp_path / "scratch").mkdir()
        decoded = DecodedLevels(tmp_path / "scratch", split.readers, split.num_images, models)
        measured = [measured_run(each, split, decoded, models, Kept(None)) for each in found]
        ensemble = ensemble_of_runs(runs, split.manifest.levels, models)
        streams = tmp_path / "streams"
        sizes = compress_cache(split.cache, ensemble, streams, models=models, show_progress=False)
        decompress_folder(streams, tmp_path / "decoded", models=models, show_progress=False)
        for each in measured:
            level = each.run.level
            bits = each.measurement.bits_per_pixel * sizes.num_pixels
            assert bits == pytest.approx(8 * sizes.level_bytes[level])
            again = DecodedLevels(tmp_path / "scratch", split.readers, split.num_images, models)
            maps = [decoded.of([each.run]), again.of([each.run])]
            with LevelReader(tmp_path / "decoded" / "val", level) as sent:
                for index in range(split.num_images):
                    for one in maps:
                        assert np.array_equal(one[each.run.folder].read(index), sent.sample(index))


def test_chain_gives_what_the_decoder_has_of_the_next_coarser_level(
    study: TinyStudy, runs: list[Path]
) -> None:
    models = LoadedModels()
    with opened(study) as split:
        first, *_, last = trained_runs(runs, split.cache, models).special
        assert ContextChain(last, split.readers, models).given((0,)) == {}
        there = ContextChain(first, split.readers, models).context((1,))
        expected = None
        for level in (3, 2, 1):
            x = as_batch(split.readers[level].sample(1))
            expected = models.codec(runs[level]).decoded(x, expected)
        assert there is not None and expected is not None
        assert np.array_equal(there.maps, expected.maps)
        assert np.array_equal(there.trail, expected.trail)


def test_results_are_kept_for_the_very_chain_that_a_run_was_measured_beside(
    study: TinyStudy, runs: list[Path], tmp_path: Path
) -> None:
    models = LoadedModels()
    other = make_run(tmp_path / "other" / "run_1", study, 3, name=MODEL, seed=7)
    fine = make_run(tmp_path / "fine" / "run_1", study, 2, name=MODEL, beside=[runs[3], other])
    kept, scratch = Kept(tmp_path / "kept"), tmp_path / "scratch"
    scratch.mkdir()
    with opened(study) as split:
        decoded = DecodedLevels(scratch, split.readers, split.num_images, models)
        figures = {}
        for beside in ([other], [runs[3]], [runs[3], other]):
            found = [
                each
                for each in trained_runs([fine, *beside], split.cache, models).special
                if each.level == 2
            ]
            assert [each.context.folder for each in found if each.context] == beside
            assert {each.model_folder for each in found} == {fine}
            maps = [measured_run(each, split, decoded, models, kept).measurement for each in found]
            for context, measurement in zip(beside, maps, strict=True):
                assert figures.setdefault(context, measurement.mse) == measurement.mse
    assert len(set(figures.values())) == 2
    assert sum(path.is_file() for path in (tmp_path / "kept").rglob("*.npz")) == 2


def test_predicted_ways_are_measured_as_files_without_payload_are_decoded(
    study: TinyStudy, runs: list[Path], tmp_path: Path
) -> None:
    models = LoadedModels()
    with opened(study) as split:
        finest = next(iter(trained_runs(runs, split.cache, models).special))
        ways = predicted_ways(finest)
        assert [[each.is_predicted for each in way.whole] for way in ways] == [
            [True, False, False, False], [True, True, False, False], [True, True, True, False],
        ]  # fmt: skip
        decoded = DecodedLevels(tmp_path, split.readers, split.num_images, models)
        levels = dict(ensemble_of_runs(runs, split.manifest.levels, models).levels)
        for level in (0, 1):
            levels[level] = PredictedLevel(
                run=runs[level], model_sha256=models.info(runs[level]).model_sha256, lmbda=0.1
            )
        codec = PyramidCodec(Ensemble(levels), {}, models)
        found = measured_run(ways[1], split, decoded, models, Kept(None)).measurement
        again = DecodedLevels(tmp_path, split.readers, split.num_images, models).of([ways[1]])
        num_bytes = 0
        for index in range(split.num_images):
            maps = {level: reader.sample(index) for level, reader in split.readers.items()}
            data = codec.encode(maps, image_id=1, image_hw=(1, 1))
            num_bytes += section_bytes(unpack(data))[0]
            expected = codec.decode(data)[0].astype(np.float16)
            for there in (decoded.of([ways[1]]), again):
                assert np.array_equal(there[ways[1].folder].read(index), expected)
        assert found.bits_per_pixel * split.num_pixels == pytest.approx(8 * num_bytes)
        assert (found.estimated_bpp, found.payload_bpp) == (0, 0)


def test_run_whose_context_is_not_there_is_left_out_and_the_line_names_it(
    study: TinyStudy, runs: list[Path]
) -> None:
    found = trained_runs([runs[0], runs[2], runs[3]], CacheFolder(study.val_cache), LoadedModels())
    assert [each.level for each in found.special] == [2, 3]
    (line,) = found.missing
    assert line.startswith(f"{runs[0]} is left out: it sees the coarser level as decoded by")
    assert str(runs[1]) in line


def test_allocation_takes_contextual_runs_with_their_chain_and_files_are_as_it_says(
    study: TinyStudy, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "dropped_error", lambda *_: 1e9)  # untrained models are worse
    alone, models = make_run(tmp_path / "alone" / "run_1", study, 2, seed=5), LoadedModels()
    asked = AnalysisRequest(
        cache=study.val_cache, split="val", config=study.config, run_dirs=[*runs, alone]
    )
    with opened(study) as split:
        candidates = runs_of(asked, split, models)
        assert sorted(each.level for each in candidates) == [0] * 4 + [1] * 3 + [2] * 3 + [3]
        decoded = DecodedLevels(tmp_path, split.readers, split.num_images, models)
        with_boxes = measured_split(split, candidates, decoded, models, Kept(None))
        measured = replace(with_boxes, detection=None)  # which takes long
        bits = {each.run: each.measurement.bits_per_pixel for each in measured.runs}
        predicted_from_3 = next(way for way in candidates if len(way.chain) == 3 and (
            way.chain[1].is_predicted
        ))  # fmt: skip
        fewest = sum(bits[each] for each in predicted_from_3.whole) + measured.overhead.shared
        for budget, way in ((1000.0, ModelLevel), (1.05 * fewest, PredictedLevel)):
            found = allocate(measured, measured, [], Target(kind="bpp", value=budget)).result
            assert found is not None and found.allocation.met
            ways = found.ensemble.levels
            assert isinstance(ways[3], CodedLevel)
            assert all(isinstance(ways[level], way) for level in range(3))
            sent = compress_cache(
                split.cache, found.ensemble, tmp_path / str(budget), show_progress=False
            )
            assert found.combination.bits_per_pixel == pytest.approx(sent.bits_per_pixel)
    assert {found.parts[level].label for level in range(3)} == {"0.001 predicted"}
