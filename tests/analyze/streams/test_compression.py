"""compress-features and decompress-features: exactly the eval-mode output, from files alone."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyze.streams.compression import compress_cache
from analyze.streams.decompression import decoded_manifest, decompress_folder
from analyze.streams.ensemble import (
    DroppedLevel,
    Ensemble,
    EnsembleLevel,
    ensemble_of_runs,
    write_ensemble,
)
from analyze.streams.pyramid_codec import PyramidCodec
from analyze.streams.streams_index import FILE_NAME, StreamsIndex, load_index
from configs.errors import CacheError
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations, write_annotations
from data.cache.manifest import Manifest
from data.reading.level_reader import LevelReader
from data.system.locks import held
from data.verification.check import verify_cache
from tests.analyze.streams.conftest import Sent
from tests.support.coded_study import compress, decompress, make_run, must_compress
from tests.support.extraction import TinyCache, error_of, fingerprints, run_extract
from tests.support.tiny_study import TinyStudy
from train.runs.checkpoint import BEST_NAME, load_codec
from train.runs.loaded_models import LoadedModels


def image_files(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def test_second_compression_of_a_folder_waits_for_the_first(
    sent: Sent, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "streams"
    shutil.copytree(sent.streams, out)
    before = fingerprints(out)
    left = out / "images" / "3.fpn.0123456789ab.part"
    left.write_bytes(b"of a process that was killed")
    caplog.set_level("INFO")
    ensemble = load_index(sent.streams).ensemble
    with ThreadPoolExecutor(1) as pool:
        with held(out / "compressing.lock"):
            second = pool.submit(compress_cache, sent.study.val_cache, ensemble, out)
            while f"{out}: another process writes here: waiting" not in caplog.messages:
                time.sleep(0.01)
                assert not second.done(), second.result()
        assert second.result().num_new_images == 0
    assert fingerprints(out).keys() == before.keys()


@torch.no_grad()
def test_another_process_decodes_exactly_the_eval_mode_output(sent: Sent) -> None:
    for level, run in enumerate(sent.runs):
        codec, _ = load_codec(run / BEST_NAME, level=level)
        with (
            LevelReader(sent.study.val_cache, level) as original,
            LevelReader(sent.decoded / "val", level, verify="on_open") as decoded,
        ):
            assert decoded.num_samples == original.num_samples == 3
            for index in range(original.num_samples):
                values = torch.from_numpy(np.array(original.sample(index), dtype=np.float32))
                x_hat = codec(values.permute(2, 0, 1)[None])["x_hat"][0].permute(1, 2, 0)
                expected = x_hat.clamp(-65504, 65504).numpy().astype(np.float16)
                assert np.array_equal(decoded.sample(index), expected)


def test_folders_may_be_text_and_the_device_torchs_own(sent: Sent, tmp_path: Path) -> None:
    models = LoadedModels(torch.device("cpu"))
    levels = Manifest.load(sent.study.val_cache).levels
    ensemble = ensemble_of_runs([str(run) for run in sent.runs], levels, models)
    out = str(tmp_path / "streams")
    compress_cache(str(sent.study.val_cache), ensemble, out, models=models, show_progress=False)
    assert fingerprints(tmp_path / "streams" / "images") == fingerprints(sent.streams / "images")
    cache = str(tmp_path / "decoded")
    done = decompress_folder(
        out, cache, checkpoints=str(tmp_path), models=models, show_progress=False
    )
    assert done.cache == tmp_path / "decoded" / "val"
    assert done.num_new_images == 3


def test_level_without_a_run_is_derived_from_the_decoded_one_before_it(sent: Sent) -> None:
    with (
        LevelReader(sent.decoded / "val", 3) as finer,
        LevelReader(sent.decoded / "val", 4) as pool,
    ):
        assert pool.info.derived_from == 3
        for index in range(3):
            assert np.array_equal(pool.sample(index), finer.sample(index)[::2, ::2])


def test_report_adds_up_to_the_bytes_on_disk(sent: Sent) -> None:
    sizes = sum(path.stat().st_size for path in image_files(sent.streams))
    manifest = Manifest.load(sent.study.val_cache)
    pixels = sum(sample.height * sample.width for sample in manifest.samples)
    inputs = sum(sample.input_height * sample.input_width for sample in manifest.samples)
    assert (
        f"3 images (3 new), {sizes} bytes, {8 * sizes / pixels:.5g} bits per pixel, "
        f"{8 * sizes / inputs:.5g} of the detector's input\n"
    ) in sent.printed
    parts = [line.split() for line in sent.printed.splitlines() if line.startswith("  ")]
    assert [words[0] for words in parts] == ["level"] * 5 + ["shared:"]
    assert sum(int(words[words.index("bytes,") - 1]) for words in parts) == sizes


def test_decoded_cache_is_whole_and_says_where_it_came_from(sent: Sent) -> None:
    cache = sent.decoded / "val"
    assert verify_cache(cache).damages == []
    found, original = Manifest.load(cache), Manifest.load(sent.study.val_cache)
    index = json.loads((sent.streams / FILE_NAME).read_text())
    assert found.decoded_from == (
        f"models {index['ensemble_id']} of cache {original.fingerprint[:16]}"
    )
    assert found.samples == original.samples
    assert [level.derived_from for level in found.levels] == [None, None, None, None, 3]
    boxes = [json.loads((c / ANNOTATIONS_NAME).read_text()) for c in (cache, sent.study.val_cache)]
    assert boxes[0] == boxes[1]


def test_extraction_verifies_a_decoded_cache_but_does_not_take_it_for_its_own(sent: Sent) -> None:
    config = sent.study.config_file
    assert run_extract(config, sent.decoded, "--verify", split="val").exit_code == 0
    refused = error_of(run_extract(config, sent.decoded, split="val"))
    assert "holds a cache of another plan (decoded_from: 'models" in refused


def test_manifest_of_an_extracted_cache_does_not_speak_of_decoding(study: TinyStudy) -> None:
    assert "decoded" not in (study.val_cache / "manifest.json").read_text()


def test_interrupted_work_goes_on_and_gives_the_same_bytes(sent: Sent, tmp_path: Path) -> None:
    streams = tmp_path / "streams"
    shutil.copytree(sent.streams, streams)
    before = fingerprints(streams / "images")
    files = image_files(streams)
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-3])
    kept = files[2].stat().st_mtime_ns
    assert "3 images (2 new)" in must_compress(sent.study, streams, sent.runs)
    assert fingerprints(streams / "images") == before
    assert files[2].stat().st_mtime_ns == kept
    of_version_1 = bytearray(files[0].read_bytes())
    of_version_1[4] = 1
    files[0].write_bytes(of_version_1)
    assert "3 images (1 new)" in must_compress(sent.study, streams, sent.runs)
    assert fingerprints(streams / "images") == before

    files[2].rename(tmp_path / "lost.fpn")
    broken = decompress(streams, tmp_path / "decoded")
    assert f"{files[2]}: missing: run compress-features again" in error_of(broken)
    (tmp_path / "lost.fpn").rename(files[2])
    assert decompress(streams, tmp_path / "decoded").exit_code == 0
    again = decompress(streams, tmp_path / "decoded")
    assert "3 images (0 new)" in again.output
    assert verify_cache(tmp_path / "decoded" / "val").damages == []


def test_boxes_that_were_corrected_are_taken_over_by_files_that_are_there(
    sent: Sent, tmp_path: Path
) -> None:
    features, streams, decoded = (tmp_path / name for name in ("features", "streams", "decoded"))
    shutil.copytree(sent.study.val_cache, features / "val")
    shutil.copytree(sent.streams, streams)
    shutil.copytree(sent.decoded, decoded)
    boxes = read_annotations(features / "val" / ANNOTATIONS_NAME, "val")
    renamed = dict.fromkeys(boxes.categories, "thing")
    write_annotations(features / "val" / ANNOTATIONS_NAME, replace(boxes, categories=renamed))
    ensemble = ensemble_of_runs(sent.runs, Manifest.load(features / "val").levels, LoadedModels())
    assert compress_cache(features / "val", ensemble, streams).num_new_images == 0
    assert decompress_folder(streams, decoded).num_new_images == 0
    assert read_annotations(decoded / "val" / ANNOTATIONS_NAME, "val").categories == renamed


def test_dropped_level_is_the_training_splits_mean(sent: Sent, tmp_path: Path) -> None:
    path = tmp_path / "ensemble.yaml"
    ways = ensemble_of_runs(sent.runs, Manifest.load(sent.study.val_cache).levels).levels
    write_ensemble(path, Ensemble({**ways, 2: DroppedLevel()}))
    assert compress(sent.study, tmp_path / "streams", "--ensemble", path).exit_code == 0
    assert decompress(tmp_path / "streams", tmp_path / "decoded").exit_code == 0
    with (
        LevelReader(tmp_path / "decoded" / "val", 2) as dropped,
        LevelReader(sent.study.train_cache, 2) as known,
    ):
        mean = known.statistics.mean.astype(np.float32).astype(np.float16)
        assert np.array_equal(dropped.sample(1), np.broadcast_to(mean, dropped.shape(1)))
    with (
        LevelReader(tmp_path / "decoded" / "val", 0) as one,
        LevelReader(sent.decoded / "val", 0) as other,
    ):
        assert np.array_equal(one.sample(2), other.sample(2))


def test_one_model_for_all_levels_serves_each(study: TinyStudy, tmp_path: Path) -> None:
    run = make_run(tmp_path / "random" / "run_1", study, 0, 1, 2, 3, 4)
    must_compress(study, tmp_path / "streams", [run])
    assert decompress(tmp_path / "streams", tmp_path / "decoded").exit_code == 0
    with LevelReader(tmp_path / "decoded" / "val", 4) as decoded:
        assert decoded.info.derived_from is None


def test_levels_and_runs_that_do_not_fit_are_one_line(sent: Sent, tmp_path: Path) -> None:
    out = tmp_path / "streams"
    one = ["--run", sent.runs[0]]
    assert "give either --run" in error_of(compress(sent.study, out))
    assert "level 1 has no run" in error_of(compress(sent.study, out, *one))
    assert "both serve level 0" in error_of(compress(sent.study, out, *one, *one))
    assert "no cache of the split 'test'" in error_of(
        compress(sent.study, out, *one, "--split", "test")
    )
    path = tmp_path / "ensemble.yaml"
    path.write_text(
        "levels: {0: dropped, 1: {derived_from: 0}, 2: dropped, 3: dropped, 4: dropped}"
    )
    assert "level 1 cannot be derived from level 0: it is no other level subsampled" in error_of(
        compress(sent.study, out, "--ensemble", path)
    )
    assert not out.exists()


def test_folder_of_other_models_is_not_written_over(sent: Sent, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other" / "run_1", sent.study, 0, seed=9)
    runs = [option for run in (other, *sent.runs[1:]) for option in ("--run", run)]
    before = fingerprints(sent.streams)
    refused = error_of(compress(sent.study, sent.streams, *runs))
    assert "holds features compressed otherwise (models: " in refused
    assert fingerprints(sent.streams) == before


def test_moved_checkpoints_are_found_by_their_hash(sent: Sent, tmp_path: Path) -> None:
    streams = tmp_path / "far" / "streams"
    shutil.copytree(sent.streams, streams)
    lost = error_of(decompress(streams, tmp_path / "decoded"))
    assert "level 0: its model" in lost
    assert "--checkpoints" in lost
    moved = tmp_path / "moved"
    for level, run in enumerate(sent.runs):
        shutil.copytree(run, moved / f"level {level}")
    found = decompress(streams, tmp_path / "decoded", "--checkpoints", moved)
    assert found.exit_code == 0, found.output


def test_file_of_other_models_or_of_another_image_is_refused(sent: Sent, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other" / "run_1", sent.study, 0, seed=9)
    levels = Manifest.load(sent.study.val_cache).levels
    codec = PyramidCodec(ensemble_of_runs([other, *sent.runs[1:]], levels), {})
    data = image_files(sent.streams)[0].read_bytes()
    with pytest.raises(CacheError, match=r"1\.fpn: was made by the models .*, these are "):
        codec.decode(data, "1.fpn")
    streams = tmp_path / "streams"
    shutil.copytree(sent.streams, streams)
    index = json.loads((streams / FILE_NAME).read_text())
    for level in range(4):
        index["levels"][str(level)]["run"] = str(sent.runs[level])
    (streams / FILE_NAME).write_text(json.dumps(index))
    files = image_files(streams)
    files[0].write_bytes(files[1].read_bytes())
    assert "holds image" in error_of(decompress(streams, tmp_path / "decoded"))


def test_run_of_another_detector_is_refused(sent: Sent, tmp_path: Path) -> None:
    manifest = Manifest.load(sent.study.val_cache)
    ensemble = ensemble_of_runs(sent.runs, manifest.levels)
    cache = tmp_path / "val"
    shutil.copytree(sent.study.val_cache, cache)
    text = (cache / "manifest.json").read_text()
    sha256 = manifest.detector["weights_sha256"]
    (cache / "manifest.json").write_text(text.replace(sha256, "0" * 64))
    with pytest.raises(CacheError, match="trained on features of detector weights"):
        compress_cache(cache, ensemble, tmp_path / "streams", show_progress=False)


def test_what_is_decoded_for_a_cache_in_8_bits_is_of_float16(byte_cache: TinyCache) -> None:
    ways: dict[int, EnsembleLevel] = {level: DroppedLevel() for level in range(5)}
    index = StreamsIndex(
        manifest=byte_cache.manifest, ensemble=Ensemble(ways), ensemble_id=b"id", means={}
    )
    decoded = decoded_manifest(index)
    again = Manifest.from_json(json.loads(decoded.to_json()))
    assert (again.dtype, again.format_version, again.codes) == ("float16", 1, None)
