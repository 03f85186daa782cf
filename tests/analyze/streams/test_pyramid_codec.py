"""Pyramids of contextual models: a file decodes to each model's output beside the coarser level.

Bit for bit here, and to the same latents on another machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from analyze.file_format.image_file import section_bytes, unpack
from analyze.file_format.section_heads import Kind
from analyze.maps.map_source import as_batch
from analyze.streams.compression import compress_cache
from analyze.streams.decompression import decompress_folder
from analyze.streams.ensemble import (
    CodedLevel,
    DroppedLevel,
    Ensemble,
    EnsembleLevel,
    PredictedLevel,
    ensemble_of_runs,
    read_ensemble,
    write_ensemble,
)
from analyze.streams.pyramid_codec import PyramidCodec, ensemble_id
from configs.errors import CacheError, ConfigError
from data.cache.manifest import Manifest
from data.reading.level_reader import LevelReader
from tests.support.coded_study import make_chain, make_run
from tests.support.decoded_chains import contexts_in, decoded
from tests.support.tiny_codecs import NAMES
from tests.support.tiny_study import TinyStudy
from tests.support.torch_cores import cores
from train.codecs.layers.context_path import Context
from train.runs.loaded_models import LoadedModels

ROOT = Path(__file__).parents[3]
LEVELS = (0, 1, 2)
SIZES = {0: (13, 21), 1: (7, 11), 2: (4, 6)}  # odd, as those of a detector's maps


@dataclass(frozen=True, slots=True)
class Chain:
    """Runs of the levels 0, 1 and 2, each beside the next, and maps of one image for them."""

    runs: list[Path]
    maps: dict[int, NDArray[Any]]
    models: LoadedModels

    def ensemble(self, *predicted: int) -> Ensemble:
        levels: dict[int, EnsembleLevel] = {}
        for level, run in zip(LEVELS, self.runs, strict=True):
            way = PredictedLevel if level in predicted else CodedLevel
            levels[level] = way(run=run, model_sha256=self.models.info(run).model_sha256, lmbda=0.1)
        return Ensemble(levels)

    def codec(self, *predicted: int) -> PyramidCodec:
        return PyramidCodec(self.ensemble(*predicted), {}, self.models)

    def expected(self, *predicted: int) -> dict[int, Context]:
        """What each model makes of its level, or of nothing, beside the coarser one's output."""
        found: dict[int, Context] = {}
        context: Context | None = None
        for level in reversed(LEVELS):
            codec = self.models.codec(self.runs[level])
            if level in predicted:
                assert context is not None
                context = codec.predicted(SIZES[level], context)
            else:
                context = codec.decoded(as_batch(self.maps[level]), context)
            found[level] = context
        return found


@pytest.fixture(scope="module")
def chains(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chain]:
    """One of each model."""
    folder = tmp_path_factory.mktemp("chains")
    maps = {}
    for level, (height, width) in SIZES.items():
        with LevelReader(study.val_cache, level) as reader:
            values = np.asarray(reader.sample(0), dtype=np.float32)
        maps[level] = np.resize(values, (height, width, values.shape[2]))
    return {
        name: Chain(make_chain(folder / name, study, name, LEVELS), maps, LoadedModels())
        for name in NAMES
    }


@pytest.fixture(scope="module")
def chain(chains: Mapping[str, Chain]) -> Chain:
    return chains["mean_scale_hyperprior"]


def encoded(chain: Chain, codec: PyramidCodec) -> bytes:
    return codec.encode(chain.maps, image_id=1, image_hw=(100, 168))


def as_map(context: Context) -> NDArray[Any]:
    values: NDArray[Any] = context.maps[0].permute(1, 2, 0).numpy()
    return values


@pytest.mark.parametrize("predicted", [(), (1,)])
@pytest.mark.parametrize("name", NAMES)
def test_file_decodes_bit_for_bit_to_each_models_output_beside_the_decoded_coarser_level(
    chains: Mapping[str, Chain], name: str, predicted: tuple[int, ...]
) -> None:
    chain = chains[name]
    codec = chain.codec(*predicted)
    data = encoded(chain, codec)
    decoded = codec.decode(data, sizes_hw=SIZES)
    assert list(decoded) == list(LEVELS)
    for level, expected in chain.expected(*predicted).items():
        assert np.array_equal(decoded[level], as_map(expected))
    for level in predicted:
        assert section_bytes(unpack(data))[level] <= 6  # its head alone


def test_all_levels_but_the_coarsest_may_be_predicted(chain: Chain) -> None:
    codec = chain.codec(0, 1)
    decoded = codec.decode(encoded(chain, codec))
    for level, expected in chain.expected(0, 1).items():
        assert np.array_equal(decoded[level], as_map(expected))


@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_cores_decodes_the_same_latents(
    chains: Mapping[str, Chain], name: str
) -> None:
    chain = chains[name]
    with cores(1):
        data = encoded(chain, chain.codec(0))
        expected = chain.expected(0)
    with cores(2):
        found = contexts_in(data, chain.runs, chain.models)
    for level in LEVELS:
        assert torch.equal(found[level].trail, expected[level].trail)
        torch.testing.assert_close(found[level].maps, expected[level].maps, rtol=1e-4, atol=1e-3)


# Beside the machine at hand, whose newest instructions the tests themselves use.
MACHINES = {
    "oldest": (
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
         "NUMBA_CPU_NAME": "generic", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        ["DEFAULT", "generic", 1],
    ),
    "of 2013": (
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
         "NUMBA_CPU_NAME": "haswell", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        ["AVX2", "haswell", 2],
    ),
}  # fmt: skip


def test_machines_of_other_vectors_and_threads_decode_each_others_files_to_the_same_latents(
    chains: Mapping[str, Chain], tmp_path: Path
) -> None:
    """All models, alone (the coarsest level) and beside a context; both ways. One process each."""
    has_avx2 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    machines = {name: MACHINES[name] for name in MACHINES if has_avx2 or name == "oldest"}
    running = {}
    for name, (variables, _) in machines.items():
        folder = tmp_path / name
        folder.mkdir()
        arguments: list[Path] = []
        for model, chain in chains.items():
            (folder / model).write_bytes(encoded(chain, chain.codec()))
            maps = {level: torch.from_numpy(values) for level, values in chain.maps.items()}
            torch.save(maps, folder / f"{model}.maps")
            arguments += [folder / model, *chain.runs]
        running[name] = subprocess.Popen(
            [sys.executable, "-m", "tests.support.decoded_chains", *map(str, arguments)],
            env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            cwd=folder, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    for name, process in running.items():
        told, _ = process.communicate(timeout=600)
        assert process.returncode == 0
        assert json.loads(told.splitlines()[-1]) == machines[name][1]
        for model, chain in chains.items():
            there = tmp_path / name / model
            here = decoded(Path(f"{there}.recoded").read_bytes(), chain.runs, chain.models)
            expected = {level: (each.maps, each.trail) for level, each in chain.expected().items()}
            for wanted, found in (
                (expected, torch.load(f"{there}.decoded", weights_only=True)),
                (torch.load(f"{there}.redecoded", weights_only=True), here),
            ):
                for level in LEVELS:
                    assert torch.equal(found[level][1], wanted[level][1]), (name, model, level)
                    torch.testing.assert_close(
                        found[level][0], wanted[level][0], rtol=1e-4, atol=1e-3
                    )


def test_file_says_beside_which_level_each_is_decoded(chain: Chain) -> None:
    sections = unpack(encoded(chain, chain.codec(0))).sections
    assert [(section.kind, section.context) for section in sections] == [
        (Kind.PREDICTED, 1), (Kind.CODED, 2), (Kind.CODED, None),
    ]  # fmt: skip


def test_damage_in_a_coarse_level_is_told_with_all_levels_that_it_costs(chain: Chain) -> None:
    codec = chain.codec()
    body = bytearray(encoded(chain, codec)[:-4])
    body[-1] ^= 255  # of the last payload, level 2's
    mended = bytes(body) + zlib.crc32(body).to_bytes(4, "little")
    with pytest.raises(
        CacheError, match=r"^7\.fpn: level 2: .*with it goes what is decoded beside it: 0 and 1"
    ):
        codec.decode(mended, "7.fpn")


def test_truncated_and_flipped_files_are_refused(chain: Chain) -> None:
    codec = chain.codec(0)
    data = encoded(chain, codec)
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 4
        for altered in (data[:place], bytes(flipped)):
            with pytest.raises(CacheError, match=r"^7\.fpn: "):
                codec.decode(altered, "7.fpn")


def test_file_that_names_another_context_than_its_models_have_is_refused(chain: Chain) -> None:
    codec = chain.codec(0)
    image = unpack(encoded(chain, codec))
    first, *others = image.sections
    other = replace(image, sections=(replace(first, context=2), *others))
    with pytest.raises(CacheError, match="its levels are not those of its models"):
        codec.require_own(other, "7.fpn")


def test_id_tells_predicted_levels_from_coded_ones(chain: Chain) -> None:
    ids = {ensemble_id(chain.ensemble(*predicted), {}) for predicted in ((), (0,), (0, 1))}
    assert len(ids) == 3


def test_ensemble_with_predicted_levels_is_read_as_it_was_written(
    chain: Chain, tmp_path: Path
) -> None:
    written = chain.ensemble(0)
    write_ensemble(tmp_path / "ensemble.yaml", written)
    found = read_ensemble(tmp_path / "ensemble.yaml")
    assert isinstance(found.levels[0], PredictedLevel)
    assert ensemble_id(found, {}) == ensemble_id(written, {})
    text = (tmp_path / "ensemble.yaml").read_text()
    (tmp_path / "ensemble.yaml").write_text(text.replace("predicted: true", "predicted: 1"))
    with pytest.raises(ConfigError, match=r"level 0: expected .*`predicted: true`"):
        read_ensemble(tmp_path / "ensemble.yaml")


def test_contextual_model_without_the_model_that_it_knows_is_one_line(
    chain: Chain, study: TinyStudy, tmp_path: Path
) -> None:
    ways = chain.ensemble().levels
    other = make_run(tmp_path / "other" / "run_1", study, 1)
    sha256 = LoadedModels().info(other).model_sha256
    coded = CodedLevel(run=other, model_sha256=sha256, lmbda=0.1)
    known = f"{chain.runs[0]} sees level 1 as decoded by {chain.runs[1]} or model "
    for levels in (ways | {1: coded}, ways | {1: DroppedLevel()}):
        with pytest.raises(ConfigError, match=f"^level 0: {known}.*name that run for level 1"):
            PyramidCodec(Ensemble(levels), {1: np.zeros(256)})
    with pytest.raises(ConfigError, match=r"level 1: .* sees the coarser level as decoded by"):
        PyramidCodec(Ensemble({level: ways[level] for level in (0, 1)}), {})
    predicted = PredictedLevel(run=chain.runs[2], model_sha256=ways[2].model_sha256, lmbda=0.1)
    with pytest.raises(ConfigError, match=r"^level 2 cannot be predicted: .* without --context"):
        PyramidCodec(Ensemble(ways | {2: predicted}), {})


def test_decompressed_cache_of_contextual_runs_is_to_the_bit_what_the_chain_decodes(
    study: TinyStudy, tmp_path: Path
) -> None:
    runs = make_chain(tmp_path, study, "factorized_prior_specific_level", range(4))
    ensemble = ensemble_of_runs(runs, Manifest.load(study.val_cache).levels)
    compress_cache(study.val_cache, ensemble, tmp_path / "streams", show_progress=False)
    decompress_folder(tmp_path / "streams", tmp_path / "decoded", show_progress=False)
    context: Context | None = None
    for level in reversed(range(4)):
        codec = LoadedModels().codec(runs[level])
        with (
            LevelReader(study.val_cache, level) as original,
            LevelReader(tmp_path / "decoded" / "val", level) as decoded,
        ):
            context = codec.decoded(as_batch(original.sample(1)), context)
            assert np.array_equal(decoded.sample(1), as_map(context).astype(np.float16))
