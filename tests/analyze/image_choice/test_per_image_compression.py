"""Each image by models of its own choice: real files, decoded again, from untrained codecs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyze.file_format.image_file import pack, unpack
from analyze.image_choice.chain_choice import WayCosts, choose, costs_of
from analyze.image_choice.per_image_compression import compress_per_image
from analyze.image_choice.way_costs import WayMeter
from analyze.image_choice.ways import Ways, candidates_text, read_candidates
from analyze.image_choice.ways_of_runs import ways_of_runs
from analyze.streams.decompression import decompress_folder
from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    DroppedLevel,
    Ensemble,
    PredictedLevel,
)
from analyze.streams.per_image_codec import PerImageCodec
from analyze.streams.pyramid_codec import PyramidCodec
from analyze.streams.streams_index import (
    PerImageIndex,
    StreamsIndex,
    image_path,
    load_index,
)
from configs.errors import CacheError, ConfigError
from data.cache.manifest import Manifest
from data.reading.level_reader import LevelReader
from tests.support.coded_study import compress, make_chain, make_run
from tests.support.extraction import fingerprints
from tests.support.tiny_study import TinyStudy
from train.runs.loaded_models import LoadedModels

SLOPE = 200.0
WEIGHTS = {CodedLevel: 1, DerivedLevel: 1, PredictedLevel: 5, DroppedLevel: 30}


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The split val, each image by its own choice among runs of the levels 1 to 3."""

    study: TinyStudy
    runs: list[Path]
    ways: Ways
    models: LoadedModels
    streams: Path

    @property
    def manifest(self) -> Manifest:
        return Manifest.load(self.study.val_cache)

    def maps(self, number: int) -> dict[int, np.ndarray[Any, Any]]:
        found = {}
        for info in self.manifest.levels:
            with LevelReader(self.study.val_cache, info.index) as reader:
                found[info.index] = np.array(reader.sample(number))
        return found

    def compress(self, out: Path, **how: float) -> None:
        compress_per_image(
            self.study.val_cache, self.ways, out, models=self.models, show_progress=False, **how
        )


@pytest.fixture(scope="module")
def chosen(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    """Level 2 sees level 3. What codecs send that have learned nothing counts less, by weights."""
    root = tmp_path_factory.mktemp("chosen")
    runs = [
        make_run(root / "alone_1", study, 1, seed=5),
        make_run(root / "alone_3", study, 3, seed=6),
        *make_chain(root / "chain", study, "factorized_prior_specific_level", (2, 3)),
    ]
    models = LoadedModels()
    all_ways = ways_of_runs(runs, Manifest.load(study.val_cache), models)
    ways = Ways(
        tuple(replace(way, weight=way.weight * WEIGHTS[type(way.how)]) for way in all_ways.each),
        "MSE",
    )
    found = Chosen(study=study, runs=runs, ways=ways, models=models, streams=root / "streams")
    found.compress(found.streams, slope=SLOPE)
    return found


def costs(chosen: Chosen, index: PerImageIndex) -> WayCosts:
    codec = PerImageCodec(index.models, index.means, chosen.models)
    meter = WayMeter(chosen.ways, index.means, codec.listed, "cpu")
    each = [meter.costs(chosen.maps(number)) for number in range(3)]
    return WayCosts(
        num_bytes=np.concatenate([one.num_bytes for one in each]),
        mse=np.concatenate([one.mse for one in each]),
    )


def index_of(folder: Path) -> PerImageIndex:
    index = load_index(folder)
    assert isinstance(index, PerImageIndex)
    return index


def test_each_image_decodes_to_what_its_own_ensemble_decodes_to(
    chosen: Chosen, tmp_path: Path
) -> None:
    index = index_of(chosen.streams)
    found = costs(chosen, index)
    choices = choose(chosen.ways.each, found, SLOPE)
    kinds = {type(chosen.ways.ensemble(places).levels[2]) for places in choices.ways}
    assert kinds == {PredictedLevel, CodedLevel}, "images differ"
    done = decompress_folder(chosen.streams, tmp_path, models=chosen.models, show_progress=False)
    assert "image by image" in (Manifest.load(done.cache).decoded_from or "")
    for number, sample in enumerate(chosen.manifest.samples):
        data = image_path(chosen.streams, sample.image_id).read_bytes()
        sections = unpack(data).sections
        alone = PyramidCodec(chosen.ways.ensemble(choices.ways[number]), index.means, chosen.models)
        usual = alone.encode(chosen.maps(number), image_id=sample.image_id, image_hw=(1, 1))
        assert [each.kind for each in unpack(usual).sections] == [each.kind for each in sections]
        for level, values in alone.decode(usual).items():
            with LevelReader(done.cache, level) as reader:
                expected = values.clip(-65504, 65504).astype(np.float16)
                assert np.array_equal(reader.sample(number), expected)


def test_bytes_and_errors_that_were_chosen_by_are_those_of_the_files(chosen: Chosen) -> None:
    index = index_of(chosen.streams)
    found = costs(chosen, index)
    choices = choose(chosen.ways.each, found, SLOPE)
    for number, sample in enumerate(chosen.manifest.samples):
        data = image_path(chosen.streams, sample.image_id).read_bytes()
        empty = replace(unpack(data), sections=())
        assert len(data) == len(pack(empty)) + choices.num_bytes[number]
    (alike,) = choose(chosen.ways.each, found.summed, SLOPE).ways
    for_all = costs_of(chosen.ways.each, found, [alike] * 3)
    assert choices.lagrangian(SLOPE) < for_all.lagrangian(SLOPE)


def test_killed_run_goes_on_to_the_same_bytes_and_measures_nothing_twice(
    chosen: Chosen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most_bits = 1.05 * size_of(chosen)
    target = {"target_bits_per_pixel": most_bits / pixels_of(chosen)}
    chosen.compress(tmp_path / "whole", **target)
    assert size_of(chosen, tmp_path / "whole") <= most_bits

    def killed(*_: Any, **__: Any) -> bytes:
        raise KeyboardInterrupt

    out = tmp_path / "killed"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(PyramidCodec, "encode", killed)
        chosen.compress(out, **target)
    with monkeypatch.context() as patched:
        patched.setattr(WayMeter, "costs", killed)
        chosen.compress(out, **target)
    assert fingerprints(out) == fingerprints(tmp_path / "whole")
    path = image_path(out, chosen.manifest.samples[1].image_id)
    path.write_bytes(path.read_bytes()[:-3])
    chosen.compress(out, **target)
    assert fingerprints(out).keys() == fingerprints(tmp_path / "whole").keys()
    assert fingerprints(out / "images") == fingerprints(tmp_path / "whole" / "images")


def size_of(chosen: Chosen, streams: Path | None = None) -> int:
    """Bits of all files."""
    folder = (streams or chosen.streams) / "images"
    return 8 * sum(path.stat().st_size for path in folder.iterdir())


def pixels_of(chosen: Chosen) -> int:
    return sum(sample.height * sample.width for sample in chosen.manifest.samples)


def test_folder_of_another_slope_or_of_one_choice_for_all_is_not_written_over(
    chosen: Chosen,
) -> None:
    with pytest.raises(CacheError, match=r"compressed otherwise \(slope: 200 there, 2 now\)"):
        chosen.compress(chosen.streams, slope=2.0)
    refused = compress(chosen.study, chosen.streams, "--ensemble", written_ensemble(chosen))
    assert "each image by a choice of its own there, all alike now" in refused.output


def test_what_differs_from_another_index_is_said_in_words(chosen: Chosen) -> None:
    index = index_of(chosen.streams)
    alike = StreamsIndex(
        ensemble=Ensemble({}), ensemble_id=bytes(8), means={}, manifest=chosen.manifest
    )
    others = {
        "all images alike there, each by a choice of its own now": alike,
        f"models: {bytes(8).hex()} there": replace(index, models_id=bytes(8)),
        "ways": replace(index, chosen={**index.chosen, "ways": []}),
    }
    for said, other in others.items():
        assert (index.difference_from(other) or "").startswith(said)
    assert index.difference_from(index) is None


def written_ensemble(chosen: Chosen) -> Path:
    path = chosen.streams.parent / "ensemble.yaml"
    path.write_text("levels: {0: dropped, 1: dropped, 2: dropped, 3: dropped, 4: dropped}\n")
    return path


def test_target_out_of_reach_is_one_line(chosen: Chosen, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--target-bpp 1e-06: no choice of these candidates"):
        chosen.compress(tmp_path / "out", target_bits_per_pixel=1e-6)


def test_file_of_other_models_or_with_a_number_beyond_the_list_is_refused(chosen: Chosen) -> None:
    index = index_of(chosen.streams)
    sample = chosen.manifest.samples[0]
    data = image_path(chosen.streams, sample.image_id).read_bytes()
    other = PerImageCodec(index.models[::-1], index.means, chosen.models)
    with pytest.raises(CacheError, match=r"7\.fpn: was made by the models .* beside it"):
        other.decode(data, "7.fpn")
    image = unpack(data)
    altered = tuple(
        replace(each, model=200) if each.model is not None else each for each in image.sections
    )
    own = PerImageCodec(index.models, index.means, chosen.models)
    with pytest.raises(CacheError, match=r"7\.fpn: is damaged \(its levels are not those"):
        own.decode(pack(replace(image, sections=altered)), "7.fpn")


def test_candidates_that_are_written_are_read_again_from_any_folder(
    chosen: Chosen, tmp_path: Path
) -> None:
    path = tmp_path / "candidates.yaml"
    path.write_text(candidates_text(chosen.ways, tmp_path))
    found = read_candidates(path)
    assert [each.model_sha256 for each in found.models] == [
        each.model_sha256 for each in chosen.ways.models
    ]
    assert [way.beside for way in found.each] == [way.beside for way in chosen.ways.each]
    assert [way.weight for way in found.each] == [way.weight for way in chosen.ways.each]
    assert [type(way.how) for way in found.each] == [type(way.how) for way in chosen.ways.each]


WRONG: Mapping[str, str] = {
    "{levels: {}}": "expected `distortion:` and `ways:`",
    "{distortion: mAP, ways: [7]}": "way 0: expected `{level: ..",
    "{distortion: mAP, ways: [{level: x}]}": "way 0: its level is no level",
    "{distortion: mAP, ways: [{level: 0, weight: -1}]}": "way 0: its weight is no number from 0 on",
    "{distortion: mAP, ways: [{level: 0, weight: 1}]}": "way 0: expected a run, `dropped: true`",
    "{distortion: mAP, ways: [{level: 0, weight: 1, dropped: true, beside: 0}]}": "beside 0 is no",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_candidates_are_a_config_error_that_names_file_and_way(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "candidates.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_candidates(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert WRONG[text] in str(caught.value)


def test_candidates_of_other_levels_or_beside_a_strange_run_are_refused(
    chosen: Chosen, tmp_path: Path
) -> None:
    fewer = Ways(tuple(way for way in chosen.ways.each if way.level), "MSE")
    with pytest.raises(ConfigError, match=r"the candidates are of levels \[1, 2, 3, 4\]"):
        compress_per_image(chosen.study.val_cache, fewer, tmp_path, slope=1.0)
    alone = tuple(replace(way, beside=None) for way in chosen.ways.each)
    with pytest.raises(ConfigError, match=r"level 2: .* is not beside a run that it was trained"):
        compress_per_image(chosen.study.val_cache, Ways(alone, "MSE"), tmp_path, slope=1.0)
    of_level = {way.level: way.how for way in chosen.ways.each if isinstance(way.how, CodedLevel)}
    finest = tuple(way if way.level else replace(way, how=of_level[1]) for way in chosen.ways.each)
    with pytest.raises(ConfigError, match=r"serves the levels \[1\], not level 0"):
        compress_per_image(chosen.study.val_cache, Ways(finest, "MSE"), tmp_path, slope=1.0)


def test_contextual_run_without_the_run_that_it_saw_is_one_line(chosen: Chosen) -> None:
    fine = chosen.runs[2]
    with pytest.raises(ConfigError, match=f"{fine}: sees what no run here sends: name the run"):
        ways_of_runs([fine, chosen.runs[0]], chosen.manifest, chosen.models)


def test_options_that_do_not_go_together_are_one_line(chosen: Chosen, tmp_path: Path) -> None:
    run = ("--run", chosen.runs[0])
    for options, line in {
        (*run, "--slope", 1): "--slope: give --per-image, too",
        (*run, "--per-image"): "--per-image: give one of --slope and --target-bpp",
        (
            "--per-image",
            "--slope",
            1,
        ): "give either --run (repeatable) or --candidates",
        ("--per-image", "--ensemble", "e.yaml", "--slope", 1): "an ensemble leaves no choice",
    }.items():
        result = compress(chosen.study, tmp_path, *options)
        assert result.exit_code == 1
        assert line in result.output


def test_command_chooses_among_runs_by_their_squared_errors(chosen: Chosen, tmp_path: Path) -> None:
    out = tmp_path / "streams"
    options = [option for run in chosen.runs for option in ("--run", run)]
    done = compress(chosen.study, out, "--per-image", "--slope", 1e-3, *options)
    assert done.exit_code == 0, done.output
    assert "3 images (3 new)" in done.output
    assert index_of(out).chosen["distortion"] == "MSE"
