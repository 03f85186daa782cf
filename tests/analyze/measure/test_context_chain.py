"""Analysis of runs that see the coarser level: they are measured as their files are decoded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from analyze.allocation.search import Target
from analyze.analysis import analyze, runs_of
from analyze.facts.kept_results import Kept
from analyze.maps.map_source import as_batch
from analyze.measure.context_chain import ContextChain
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.find_runs import trained_runs
from analyze.measure.level_rate_distortion import measured_run
from analyze.measure.split import Split, open_split
from analyze.request import AnalysisRequest, Wanted
from analyze.streams.compression import compress_cache
from analyze.streams.decompression import decompress_folder
from analyze.streams.ensemble import CodedLevel, ensemble_of_runs
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


def request(study: TinyStudy, runs: list[Path]) -> AnalysisRequest:
    return AnalysisRequest(cache=study.val_cache, split="val", config=study.config, run_dirs=runs)


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
    # The one that is named first is its context where both are there.
    fine = make_run(tmp_path / "fine" / "run_1", study, 2, name=MODEL, beside=[runs[3], other])
    kept, scratch = Kept(tmp_path / "kept"), tmp_path / "scratch"
    scratch.mkdir()
    with opened(study) as split:
        decoded = DecodedLevels(scratch, split.readers, split.num_images, models)
        figures = []
        for beside in ([runs[3], other], [other], [runs[3]]):
            (found,) = (
                each
                for each in trained_runs([fine, *beside], split.cache, models).special
                if each.level == 2
            )
            assert found.context is not None and found.context.folder == beside[0]
            figures.append(measured_run(found, split, decoded, models, kept).measurement.mse)
    assert figures[0] == figures[2] != figures[1]
    assert sum(path.is_file() for path in (tmp_path / "kept").rglob("*.npz")) == 2


def test_run_whose_context_is_not_there_is_left_out_and_the_line_names_it(
    study: TinyStudy, runs: list[Path]
) -> None:
    found = trained_runs([runs[0], runs[2], runs[3]], CacheFolder(study.val_cache), LoadedModels())
    assert [each.level for each in found.special] == [2, 3]
    (line,) = found.missing
    assert line.startswith(f"{runs[0]} is left out: it sees the coarser level as decoded by")
    assert str(runs[1]) in line


def test_allocation_takes_contextual_runs_with_their_chain_and_files_are_as_it_says(
    study: TinyStudy, runs: list[Path], tmp_path: Path
) -> None:
    alone = [
        make_run(tmp_path / f"alone_level_{level}" / "run_1", study, level, seed=level)
        for level in (2,)
    ]
    wanted = Wanted(target=Target(kind="bpp", value=1000.0))
    asked = request(study, [*runs, *alone])
    findings = analyze(asked, wanted, tmp_path / "scratch", Kept(None))
    names = [each.name for each in findings.result.combinations]
    assert any("coarse to fine" in name and name.startswith("all levels") for name in names)
    assert findings.allocation is not None
    ways = findings.allocation.ensemble.levels
    coded = {level: how.run for level, how in ways.items() if isinstance(how, CodedLevel)}
    with opened(study) as split:
        contexts = {each.folder: each.context for each in runs_of(asked, split, LoadedModels())}
    for run in coded.values():
        context = contexts[run]
        assert context is None or coded[context.level] == context.folder
    sizes = compress_cache(
        study.val_cache, findings.allocation.ensemble, tmp_path / "streams", show_progress=False
    )
    predicted = findings.allocation.combination.bits_per_pixel
    assert predicted == pytest.approx(sizes.bits_per_pixel)
    shutil.rmtree(tmp_path / "streams")
