"""The benchmarks' pieces still work: tiny runs of what `make bench` measures at full size."""

from __future__ import annotations

import importlib
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from data.cache.manifest import Manifest
from data.reading.level_reader import LevelReader
from tests.benchmarks import (
    analysis,
    coarse_to_fine,
    codec_training,
    coding,
    gpu,
    gpu_extraction,
    gpu_step,
    gpu_streaming,
    in_the_loop,
    report,
    scene_images,
    training_step,
)
from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.accounting import BytesRead, anonymous_bytes, evict, files_below
from tests.benchmarks.contestant import Samples, consume
from tests.benchmarks.level_epoch import stream_epoch
from tests.benchmarks.library_contestants import is_installed
from tests.benchmarks.report import Goal, Table
from tests.benchmarks.rounds import interleaved
from tests.benchmarks.sequential_read import read_through
from tests.benchmarks.streaming import HDF5, LIMIT, OURS, READERS
from tests.benchmarks.synthetic_cache import lay_out_cache, plan_cache, random_map, write_cache


@pytest.fixture(autouse=True)
def _leave_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting it before each turn takes a quarter of a second beside all that tests import."""
    monkeypatch.setattr("tests.benchmarks.rounds.gc.collect", lambda: None)


SAMPLES = Samples(level=1, num=19, shape=(4, 6, 8))  # the last batch is not full


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_can_be_imported_and_says_what_it_measures(name: str) -> None:
    module = importlib.import_module(f"tests.benchmarks.{name}")
    assert callable(module.run)
    assert module.__doc__


@pytest.mark.parametrize("name", READERS)
def test_reader_yields_each_sample_once_with_its_values(name: str, tmp_path: Path) -> None:
    package, maker, _ = READERS[name]
    if not is_installed(package):
        pytest.skip(f"{package} is not installed")
    with ExitStack() as resources:
        if name in (LIMIT, "zarr-python array[i]"):  # they read the cache that ours has written
            READERS[OURS][1](SAMPLES, tmp_path / "store", resources)
        contestant = maker(SAMPLES, tmp_path / "store", resources)
        for epoch in range(2):
            found = [
                features[number].permute(1, 2, 0).numpy().tobytes()
                for features in contestant.epoch(epoch)
                for number in range(len(features))
            ]
            expected = [SAMPLES[index].tobytes() for index in range(contestant.num_samples)]
            assert sorted(found) == sorted(expected)
        assert consume(contestant.epoch(2), SAMPLES) == contestant.num_samples


@pytest.mark.parametrize("name", [OURS, HDF5, LIMIT])
def test_reader_comes_in_another_order_each_epoch(name: str, tmp_path: Path) -> None:
    with ExitStack() as resources:
        if name == LIMIT:
            READERS[OURS][1](SAMPLES, tmp_path / "store", resources)
        contestant = READERS[name][1](SAMPLES, tmp_path / "store", resources)
        first, second = (
            b"".join(features.numpy().tobytes() for features in contestant.epoch(epoch))
            for epoch in (0, 1)
        )
    assert first != second


@pytest.mark.parametrize("container", ["zarr", "hdf5"])
def test_cache_that_is_laid_out_equals_what_the_writer_writes(
    container: str, tmp_path: Path
) -> None:
    plan = plan_cache(
        40, {0: (4, 4), 1: (2, 2)}, container=container, num_channels=8, shard_megabytes=0.002
    )
    lay_out_cache(tmp_path / "laid_out", *plan)
    write_cache(tmp_path / "written", *plan, values=lambda row, shape: random_map(row % 32, shape))
    laid_out, written = (files_below(tmp_path / name) for name in ("laid_out", "written"))
    assert len(laid_out) > 10
    for one, other in zip(laid_out, written, strict=True):
        assert one.relative_to(tmp_path / "laid_out") == other.relative_to(tmp_path / "written")
        # The writer leaves a level's attributes in the HDF5 files; the samples are compared below.
        if one.suffix != ".h5":
            assert one.read_bytes() == other.read_bytes()
    for level in (0, 1):
        with (
            LevelReader(tmp_path / "laid_out", level) as one_reader,
            LevelReader(tmp_path / "written", level) as other_reader,
        ):
            for index in range(40):
                assert (one_reader.sample(index) == other_reader.sample(index)).all()


def test_gpu_streaming_measures_in_small_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in gpu_streaming.SMALL.items():
        monkeypatch.setattr(gpu_streaming, name, value)
    (copies,) = gpu_streaming.run(tmp_path, device="cpu")
    assert {row[0] for row in copies.rows} >= {"1 cores, page cache", "1 cores, cold disk"}
    assert all(isinstance(row[1], float) and row[1] > 0 for row in copies.rows)


def test_epoch_of_a_level_counts_every_sample_of_whole_maps_and_of_crops(tmp_path: Path) -> None:
    lay_out_cache(tmp_path / "cache", *plan_cache(11, {0: (8, 8)}, num_channels=4))
    assert stream_epoch(tmp_path / "cache", 0) == 11
    assert stream_epoch(tmp_path / "cache", 0, crop=4, epoch=1) == 11


def test_files_are_read_through_and_counted_also_after_they_were_dropped(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * 10**6))
    evict([tmp_path / "file"])
    before = BytesRead.until_now()
    assert read_through([tmp_path / "file"]) == 3 * 10**6
    assert BytesRead.until_now().since(before).larger >= 3 * 10**6
    assert anonymous_bytes() > 10**6


def test_contestants_take_turns_and_the_warm_up_round_does_not_count() -> None:
    calls: list[str] = []
    measured = interleaved(
        {"a": lambda number: calls.append(f"a{number}") or number, "b": lambda number: -number},
        rounds=2,
        before=lambda name, number: calls.append(f"before {name}{number}"),
    )
    assert measured == {"a": [1, 2], "b": [-1, -2]}
    assert calls[:3] == ["before a0", "a0", "before b0"]
    assert calls[3:6] == ["before b1", "before a1", "a1"]


def test_results_keep_the_other_benchmarks_of_this_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    goal = Goal(what="a / b", ratio=0.5, at_least=0.8)
    table = Table(title="t", columns=["x"], rows=[["r"]], goals=[goal])
    report.save("crops", [table])
    report.save("cold", [table])
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["benchmarks"]) == {"crops", "cold"}
    assert results["benchmarks"]["cold"]["tables"][0]["goals"][0]["met"] is False
    assert results["machine"]["torch"]
    (tmp_path / "results.json").write_text(json.dumps(results | {"machine": {"cpu": "other"}}))
    report.save("cold", [table])
    assert set(json.loads((tmp_path / "results.json").read_text())["benchmarks"]) == {"cold"}


def test_goal_says_whether_it_is_met() -> None:
    assert Goal(what="x / y", ratio=0.85, at_least=0.8).line() == (
        "x / y: 0.850, target >= 0.8: met"
    )
    assert Goal(what="x / y", ratio=1.2, at_least=0.9, at_most=1.1).line() == (
        "x / y: 1.200, target >= 0.9 and <= 1.1: missed"
    )


def test_plan_of_a_synthetic_cache_is_one_bucket_of_the_wanted_maps(tmp_path: Path) -> None:
    manifest, _ = plan_cache(5, {0: (8, 6), 1: (4, 3)}, num_channels=16)
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert [manifest.sample_shape(level, 0) for level in (0, 1)] == [(8, 6, 16), (4, 3, 16)]


def test_training_benchmarks_make_the_steps_that_they_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (training_step, in_the_loop, gpu, gpu_extraction):
        monkeypatch.setattr(module, "ROUNDS", 1)
    for module in (training_step, gpu):
        monkeypatch.setattr(module, "LEAST_STEPS", 1)
    monkeypatch.setattr(scene_images, "NUM_IMAGES", 2)
    monkeypatch.setattr(scene_images, "INPUT_PX", (64, 64))
    monkeypatch.setattr(scene_images, "BUILDERS", ("fasterrcnn_mobilenet_v2_fpn",))
    monkeypatch.setattr(codec_training, "RESNET", "fasterrcnn_mobilenet_v2_fpn")
    monkeypatch.setattr(codec_training, "CODEC", {"n_hidden": 8, "n_channels": 12})
    for name, module in {"step": training_step, "loop": in_the_loop}.items():
        (tmp_path / name).mkdir()
        tables = module.run(tmp_path / name)
        assert len(tables) == 2
        assert all(goal.ratio > 0 for table in tables for goal in table.goals)
    (tmp_path / "gpu").mkdir()
    monkeypatch.setattr(gpu, "BUILDERS", scene_images.BUILDERS)
    monkeypatch.setattr(gpu_extraction, "REPEATED", 2)
    monkeypatch.setattr(gpu_extraction, "BUILDERS", scene_images.BUILDERS)
    monkeypatch.setattr(gpu_extraction, "PHOTOGRAPHS_PX", (64, 80))
    monkeypatch.setenv("GPU_CHECK_IMAGES", str(photographs(tmp_path / "photographs")))
    training, extraction, of_photographs = gpu.run(tmp_path / "gpu", device="cpu", batch_size=2)
    assert [row[0] for row in training.rows] == [f"level {level}" for level in range(5)]
    assert all(float(row[4] or 0) > 0 for row in training.rows)
    for table in (extraction, of_photographs):
        assert [row[0] for row in table.rows] == ["bare loop", "one file", "extraction"]
        assert all(float(row[1] or 0) > 0 for row in table.rows)
        decode, backbone, copy, write = (float(share or 0) for share in table.rows[2][4:])
        assert min(decode, backbone, write) > 0 == copy
    assert "photographs in 2 sizes, 2 images" in of_photographs.title


def photographs(folder: Path) -> Path:
    folder.mkdir()
    for number, size in enumerate([(70, 90), (100, 80)]):
        Image.new("RGB", size, (number, 90, 160)).save(folder / f"{number}.jpg")
    return folder


def test_analysis_benchmark_has_each_stage_and_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        "INPUT_PX": (64, 96), "NUM_IMAGES": 1, "LAMBDAS": (0.01,),
        "MODEL": {"n_hidden": 8, "n_channels": 12},
    }  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(analysis, name, value)
    # The analysis itself is what most other tests make.
    monkeypatch.setattr(analysis, "analyze", lambda *_: None)
    (table,) = analysis.run(tmp_path, device="cpu")
    names = [row[0] for row in table.rows]
    assert names[0] == "checking the cache"
    assert names[1:6] == [f"coding, level {level}" for level in range(5)]
    assert names[-2:] == ["foretold", "taken, report and all"]
    assert all(isinstance(row[3], float) and row[3] > 0 for row in table.rows)
    assert table.note.startswith("scratch space 0.00")


def test_steps_of_a_gpu_are_timed_in_all_ways_that_the_device_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_training, "CODEC", {"n_hidden": 8, "n_channels": 12})
    monkeypatch.setattr("torch.compile", lambda function: function)
    sizes = {"BATCH_SIZES": (2,), "SHAPE": (16, 16)}
    for name, value in (sizes | {"NUM_STEPS": 1, "ROUNDS": 1, "STEPS_BEFORE": 1}).items():
        monkeypatch.setattr(gpu_step, name, value)
    (table,) = gpu_step.run(tmp_path, device="cpu")
    ways = ["not compiled, asked for", "compiled, asked for"]  # graphs are a GPU's
    assert [row[0] for row in table.rows] == ways
    assert all(float(cell or 0) > 0 for row in table.rows for cell in row[2:])


def test_benchmark_of_whole_pyramids_times_each_way_of_each_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "MODELS": coding.MODELS[1:], "WIDTHS": {"n_hidden": 8, "n_channels": 12}, "ROUNDS": 1,
        "NUM_CHANNELS": 16,
    }.items():  # fmt: skip
        monkeypatch.setattr(coarse_to_fine, name, value)
    (table,) = coarse_to_fine.run(tmp_path)
    assert len(table.rows) == 3
    assert len(table.goals) == 2
    assert all(goal.ratio > 0 for goal in table.goals)


def test_coding_benchmark_times_what_decodes_to_the_same_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_training, "CODEC", {"n_hidden": 8, "n_channels": 12})
    for name, value in {
        "MODELS": coding.MODELS[1:], "LEVELS": (4,), "INPUT_PX": (192, 256), "NUM_IMAGES": 2,
        "NUM_STEPS": 2, "ROUNDS": 1,
    }.items():  # fmt: skip
        monkeypatch.setattr(coding, name, value)
    tables = coding.run(tmp_path)
    assert [len(table.rows) for table in tables] == [4]
    assert all(goal.ratio > 0 for table in tables for goal in table.goals)
