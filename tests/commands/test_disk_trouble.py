"""A disk that fills, at each file that is written and at each moment: one line, and it goes on.

The file before stays whole, nothing temporary is left, and the same work done again, on a disk with
room, ends with the same bytes as if nothing had happened.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyze.allocation.search import Target
from analyze.analysis import analyze
from analyze.facts.kept_results import Kept
from analyze.maps.map_source import DecodedMaps
from analyze.report.report_folder import write_report
from analyze.report.sections import ReportOrigin
from analyze.request import Wanted
from analyze.streams.compression import compress_cache
from analyze.streams.decompression import decompress_folder
from analyze.streams.ensemble import CodedLevel, DerivedLevel, DroppedLevel, Ensemble
from configs.config_files import load_config
from configs.errors import CacheError, MachineError
from data.cache.manifest import Manifest
from data.images.image_sets import load_images
from extract.features.extraction import extract
from extract.finetuning.finetune import _locked, _save
from tests.support.analysis import request_of
from tests.support.coded_study import make_run
from tests.support.extraction import TinyCache, fingerprints, plan_of, shard_bytes
from tests.support.failing_disk import (
    FULL,
    MOMENTS,
    Moment,
    failing_disk,
    meets,
    slow_disk,
    snapshot,
    temporary,
)
from tests.support.tiny_study import TinyStudy, tiny_config
from tests.support.training_process import differences, rows_without_times, training_state
from train.loop.job import Job
from train.loop.run import train_level
from train.runs.loaded_models import LoadedModels
from train.runs.run_folder import find_runs

TARGET = Target(kind="map_drop", value=0.01)
ATOMIC: tuple[Moment, ...] = MOMENTS
"""Files that appear whole: opened, written, synced, renamed."""
AT_ONCE: tuple[Moment, ...] = ("open", "write")
"""Files that nothing is lost with: they are written again."""


# Of a run: what is written, in the order of the first time, and the moments of each.
OF_A_RUN = {
    "config.yaml.*.part": ATOMIC,
    "run.json.*.part": ATOMIC,
    "metrics.csv.*.part": ATOMIC,
    "events.out.*": AT_ONCE,
    "metrics.csv": AT_ONCE,
    "training_diagnostics_*": AT_ONCE,
    "epoch_*.json": AT_ONCE,
    "epoch_*.png": AT_ONCE,
    "best_model.pth.*.part": ATOMIC,
    "last_model.pth.new.*.part": ATOMIC,
    "last_model.pth.new": ("rename",),
    "training_summary.txt.*.part": ATOMIC,
}


def test_run_whose_files_meet_a_full_disk_one_after_the_other_ends_with_the_same_bits(
    study: TinyStudy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=4,
        config=tiny_config(epochs=2, save_interval_s=0.0), device="cpu", out=tmp_path / "met",
    )  # fmt: skip
    undisturbed = train_level(replace(job, out=tmp_path / "undisturbed"))
    run = None
    for pattern, moments in OF_A_RUN.items():
        for moment in moments:
            before = snapshot(run) if run is not None else {}
            line = meets(pattern, moment, lambda run=run: train_level(replace(job, resume=run)))
            assert "cannot be written" in line
            assert "the same command goes on" in line
            assert temporary(tmp_path) == []
            records = sorted((tmp_path / "met").rglob("run.json"))
            run = records[0].parent if records else None
            if pattern.endswith(".part") and run is not None:
                path = run / pattern.removesuffix(".*.part").removesuffix(".new")
                if path in before:
                    assert path.read_bytes() == before[path], f"{pattern} at {moment}"
    assert run is not None
    assert train_level(replace(job, resume=run)) == run
    states = [training_state(each / "last_model.pth") for each in (run, undisturbed)]
    assert differences(*states) == []
    assert rows_without_times(run) == rows_without_times(undisturbed)
    assert "Traceback" not in capfd.readouterr().err


OF_A_CACHE = {
    "manifest.json.*.part": ATOMIC,
    "annotations.json.*.part": ATOMIC,
    "zarr.json.*.part": ATOMIC,
    "c.*.part": MOMENTS,
    "commits.jsonl": ("open", "write", "sync"),
    "statistics_level_3.json.*.part": ATOMIC,
}


@pytest.fixture(scope="module")
def extraction(tiny_config: Path) -> Callable[[Path], object]:
    """What extract-features does, of one detector."""
    plan, detector = plan_of(tiny_config)
    images = load_images(load_config(str(tiny_config)).data, "train")
    return lambda folder: extract(folder, plan, images, detector.model, show_progress=False)


def test_cache_whose_files_meet_a_full_disk_one_after_the_other_ends_with_the_same_bytes(
    extraction: Callable[[Path], object], zarr_cache: TinyCache, tmp_path: Path
) -> None:
    committed = b""
    for pattern, moments in OF_A_CACHE.items():
        for moment in moments:
            line = meets(pattern, moment, lambda: extraction(tmp_path), CacheError)
            assert f"cannot be written ({FULL})" in line
            assert temporary(tmp_path) == []
            if (tmp_path / "commits.jsonl").exists():
                lines = (tmp_path / "commits.jsonl").read_bytes()
                assert lines.startswith(committed), "what was committed stays"
                assert lines.endswith(b"\n") or not lines
                committed = lines
    extraction(tmp_path)
    assert shard_bytes(tmp_path) == shard_bytes(zarr_cache.folder)


def test_slow_disk_changes_no_byte(
    extraction: Callable[[Path], object], zarr_cache: TinyCache, tmp_path: Path
) -> None:
    with slow_disk(0.005) as waits:
        extraction(tmp_path)
    assert len(waits) > 40
    assert fingerprints(tmp_path) == fingerprints(zarr_cache.folder)


OF_STREAMS = {
    "annotations.json.*.part": ATOMIC,
    "streams.json.*.part": ATOMIC,
    "2.fpn.*.part": ATOMIC,
}


def test_streams_and_what_is_decoded_of_them_meet_a_full_disk_and_go_on(
    study: TinyStudy, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "runs" / "tiny_level_3" / "run_1", study, 3)
    models = LoadedModels()
    sha256 = models.info(run).model_sha256
    coded = CodedLevel(run=run, model_sha256=sha256, lmbda=0.1)
    dropped = DroppedLevel()
    ensemble = Ensemble({0: dropped, 1: dropped, 2: dropped, 3: coded, 4: DerivedLevel(source=3)})
    streams, decoded = tmp_path / "streams", tmp_path / "decoded"

    def compress(out: Path = streams) -> None:
        compress_cache(study.val_cache, ensemble, out, models=models, show_progress=False)

    def decompress() -> None:
        decompress_folder(streams, decoded, models=models, show_progress=False)

    for pattern, moments in OF_STREAMS.items():
        for moment in moments:
            before = snapshot(streams) if streams.exists() else {}
            line = meets(pattern, moment, compress, CacheError)
            assert f"({FULL})" in line
            assert before.items() <= snapshot(streams).items()
            assert temporary(streams) == []
    compress()
    compress(tmp_path / "undisturbed")
    assert fingerprints(streams) == fingerprints(tmp_path / "undisturbed")
    for pattern, moment in (("c.*.part", "write"), ("commits.jsonl", "write")):
        meets(pattern, moment, decompress, CacheError)
    decompress()
    assert Manifest.load(decoded / "val").decoded_from is not None


def test_report_and_decoded_maps_meet_a_full_disk_and_the_earlier_report_stays(
    study: TinyStudy, tmp_path: Path, undrawn: None
) -> None:
    request = request_of(study, tmp_path / "no runs", limit=1)
    findings = analyze(request, Wanted(target=TARGET), tmp_path / "scratch", Kept(None))
    origin = ReportOrigin(created="now", command="analyze-levels", facts={}, config="")
    folder = tmp_path / "report"
    write_report(findings, origin, folder)
    before = snapshot(folder)
    for pattern in ("levels.csv", "report.md", "index.html", "report.json"):
        for moment in AT_ONCE:
            line = meets(pattern, moment, lambda: write_report(findings, origin, folder))
            assert line.endswith("make room, or choose another --report")
            assert snapshot(folder) == before
    for moment in AT_ONCE:
        meets("map*", moment, lambda: decoded_map(tmp_path), MachineError)
    decoded_map(tmp_path)


def decoded_map(folder: Path) -> None:
    values = np.ones((3, 5, 4), dtype=np.float32)
    maps = DecodedMaps(folder / "maps", [values.shape], values.dtype)
    maps.write(0, values)
    np.testing.assert_array_equal(maps.read(0), values)
    maps.discard()


@pytest.mark.parametrize("moment", ATOMIC)
def test_kept_result_that_meets_a_full_disk_is_a_warning_and_the_one_before_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, moment: Moment
) -> None:
    kept, key = Kept(tmp_path), {"method": "rate 1"}
    kept.put(key, {"mse": 1}, {})
    with failing_disk("*.npz.*.part", moment) as disk, caplog.at_level(logging.WARNING):
        kept.put(key, {"mse": 2}, {})
    assert disk.met
    assert f"result is not kept ({FULL})" in caplog.text
    assert (found := kept.get(key)) is not None and found.facts == {"mse": 1}
    assert temporary(tmp_path) == []
    kept.put(key, {"mse": 2}, {})
    assert (found := kept.get(key)) is not None and found.facts == {"mse": 2}


@pytest.mark.parametrize("moment", ATOMIC)
def test_detectors_checkpoint_that_meets_a_full_disk_stays_as_it_was(
    tmp_path: Path, moment: Moment
) -> None:
    path = tmp_path / "last_model.pth"

    def save(epoch: int) -> None:
        with _locked(tmp_path):
            _save({"epoch": epoch}, path)

    save(1)
    assert "the same command goes on" in meets("last_model.pth.*.part", moment, lambda: save(2))
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    save(2)
    assert torch.load(path, weights_only=True) == {"epoch": 2}


def test_reader_that_meets_a_bad_disk_is_blamed_by_its_file_and_the_run_goes_on(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=4,
        config=tiny_config(), device="cpu", out=tmp_path,
    )  # fmt: skip

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "level_4.zarr/c.0.0.0.0")

    with monkeypatch.context() as broken:
        broken.setattr("data.reading.level_stream.LevelStream.__iter__", failing)
        with pytest.raises(MachineError) as caught:
            train_level(job)
    assert str(caught.value).startswith(
        "level_4.zarr/c.0.0.0.0: cannot be read or written (Input/output error): make room, or "
    )
    (record,) = tmp_path.rglob("run.json")
    train_level(replace(job, resume=record.parent))
    assert len(find_runs(tmp_path)) == 1
