"""What commands read and write at URLs is what they do in folders, on any machine."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from analyze.streams.ensemble import ensemble_of_runs, write_ensemble
from analyze.streams_cli import decompress_features
from configs.errors import UserError
from data.cache.cache_folder import CacheFolder
from data.places import mirrored_folder
from data.places.local_copies import LocalCopies
from data.places.object_store import RemoteFolder
from tests.support.analysis import analyse
from tests.support.coded_study import compress, decompress, make_run, must_compress
from tests.support.forked import start
from tests.support.ray_nodes import in_this_process
from tests.support.remote_caches import send_caches
from tests.support.resumed_runs import SAVE_ALWAYS, begin, must_equal, only_run
from tests.support.tiny_study import TinyStudy
from tests.support.training_command import call
from tests.support.training_process import options_of, wait_for
from train.cli import train_level
from train.runs.run_folder import save_config
from train.runs.run_record import RunRecord

SETTINGS = ("--level", "3", "--epochs", "4", "--batch-size", "1", "--lambda", "0.01")
SHORT = ("--level", "3", "--epochs", "1", "--lambda", "0.01")


@pytest.fixture(autouse=True)
def _nothing_is_written_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def at(url: str, machine: Path) -> tuple[str, ...]:
    """The options for runs at a URL, on a machine whose copies lie in a folder of its own."""
    return "--out", url, "--local-cache", str(machine)


def fetched(url: str, machine: Path) -> Path:
    """Return a copy of all that lies at a URL."""
    return LocalCopies(machine).fetched(url)


def send(folder: Path, url: str, machine: Path) -> None:
    """Send a folder's files to a URL."""
    mirror = LocalCopies(machine).mirror(url)
    shutil.copytree(folder, mirror.path)
    mirror.push()
    shutil.rmtree(machine)


def train_sending_always(options: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    mirrored_folder.EVERY_S = 0.1
    train_level(options)


def test_run_killed_on_one_machine_ends_on_another_as_if_nothing_had_happened(
    study: TinyStudy, bucket_url: str, tmp_path: Path
) -> None:
    url = f"{bucket_url}/runs"
    options = options_of(study, tmp_path, *SETTINGS, *SAVE_ALWAYS, *at(url, tmp_path / "a"))
    process = start(train_sending_always, options, dict(os.environ))
    store = RemoteFolder(url)
    wait_for(process, lambda: any("run.json" in name for name in store.sizes()))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (record,) = (name for name in store.sizes() if name.endswith("run.json"))
    assert b'"finished": null' in store.get(record)
    result = call(study, tmp_path, *SETTINGS, *SAVE_ALWAYS, *at(url, tmp_path / "b"))
    assert result.exit_code == 0, result.output
    assert re.search(rf"level 3, lambda 0.01 -> {url}/\S+_level_3/run_\S+\n", result.output)
    assert call(study, tmp_path / "undisturbed", *SETTINGS).exit_code == 0
    must_equal(only_run(fetched(url, tmp_path / "c")), only_run(tmp_path / "undisturbed"))
    # A third one sees that it is finished, and fetches no more than it has to.
    again = call(study, tmp_path, *SETTINGS, *at(url, tmp_path / "d"))
    assert "(finished before)" in again.output
    files = {path.name for path in only_run(LocalCopies(tmp_path / "d").path_of(url)).iterdir()}
    assert files == {"best_model.pth", "config.yaml", "run.json"}


def test_stopped_run_goes_on_by_its_url_and_all_its_files_lie_there(
    study: TinyStudy, bucket_url: str, tmp_path: Path
) -> None:
    url = f"{bucket_url}/runs"
    begin(study, tmp_path, *SHORT, "--batch-size", "1", *at(url, tmp_path / "a"))
    run = only_run(LocalCopies(tmp_path / "a").path_of(url))
    its = f"{url}/{run.parent.name}/{run.name}"
    result = call(study, tmp_path, "--resume", its, "--local-cache", str(tmp_path / "b"))
    assert result.exit_code == 0, result.output
    there = LocalCopies(tmp_path / "b").path_of(its)
    assert RunRecord.load(there).finished
    files = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert RemoteFolder(its).sizes().keys() == files - {"previous_model.pth"}
    assert {"metrics.csv", "training_summary.txt"} < files
    assert any(name.endswith(".png") for name in files)


def test_runs_at_urls_are_begun_from_and_seen_by_others(
    study: TinyStudy, bucket_url: str, tmp_path: Path
) -> None:
    def must_train(machine: str, *options: str) -> tuple[str, str]:
        """Return the run's URL, and all that was printed."""
        copies = str(tmp_path / machine)
        result = call(study, tmp_path, "--epochs", "1", *options, "--local-cache", copies)
        assert result.exit_code == 0, result.output
        return result.output.split(" -> ")[1].split()[0], result.output

    out = ("--out", f"{bucket_url}/runs")
    first, _ = must_train("a", "--level", "3", *out)
    begun, _ = must_train("a", "--level", "3", "--init-from", first, *out)
    assert begun != first
    # The settings name the URL, so that another machine takes it for the same run.
    again = must_train("b", "--level", "3", "--init-from", first, *out)
    assert again[0] == begun
    assert "(finished before)" in again[1]
    seeing, _ = must_train("a", "--level", "2", "--context", first, *out)
    more, _ = must_train("c", "--resume", seeing, "--epochs", "2")
    assert more == seeing
    assert RunRecord.load(LocalCopies(tmp_path / "c").path_of(more)).epochs == 2


def test_tasks_of_a_cluster_fetch_what_they_see_and_go_on_with_and_send_what_they_train(
    study: TinyStudy, bucket_url: str, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs ray")
    make_run(tmp_path / "runs" / "of_level_3" / "run_1", study, 3)
    save_config(tmp_path / "runs" / "of_level_3" / "run_1", study.config)
    send(tmp_path / "runs", f"{bucket_url}/runs", tmp_path / "sender")
    send_caches(study.root, f"{bucket_url}/features", tmp_path / "sender")
    machine = tmp_path / "machine"
    common = (
        "--epochs", "1", "--features", f"{bucket_url}/features", "--ray", "local",
        *at(f"{bucket_url}/runs", machine),
    )  # fmt: skip
    with in_this_process(machine):
        seen = f"{bucket_url}/runs/of_level_3/run_1"
        result = call(study, tmp_path, "--level", "2", "--context", seen, *common)
        assert result.exit_code == 0, result.output
        seeing = result.output.split(" -> ")[1].split()[0]
        assert "metrics.csv" in RemoteFolder(seeing).sizes()
        again = call(study, tmp_path, *common, "--resume", seeing, "--epochs", "2")
    assert again.exit_code == 0, again.output
    assert again.output.endswith(f" -> {seeing}\n")
    assert RunRecord.load(fetched(seeing, tmp_path / "another")).epochs == 2


def test_analysis_at_urls_is_that_of_folders_and_takes_what_was_kept(
    study: TinyStudy, undrawn: None, bucket_url: str, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    save_config(make_run(runs / "of_level_4" / "run_1", study, 4), study.config)
    local = analyse(study, runs, tmp_path / "reports" / "first")
    assert local.exit_code == 0, local.output
    send(runs, f"{bucket_url}/runs", tmp_path / "sender")
    send(tmp_path / "reports" / "kept", f"{bucket_url}/reports/kept", tmp_path / "sender")
    store = RemoteFolder(f"{bucket_url}/reports")
    kept = store.versions("kept")
    store.put("first/report.json", b'{"files": ["old.csv"]}')
    store.put("first/old.csv", b"of an earlier report")
    options = (
        "--report", f"{store.url}/first", "--kept", f"{store.url}/kept",
        "--checkpoints", f"{bucket_url}/runs", "--local-cache", str(tmp_path / "copies"),
    )  # fmt: skip
    result = analyse(study, runs, tmp_path, *options)
    assert result.exit_code == 0, result.output
    assert f"tables, curves and pictures: {store.url}/first/index.html" in result.output
    files = [path for path in (tmp_path / "reports").rglob("*") if path.is_file()]
    names = {path.relative_to(tmp_path / "reports").as_posix() for path in files}
    assert store.sizes().keys() == names
    assert store.versions("kept") == kept
    table = (tmp_path / "reports" / "first" / "levels.csv").read_text()
    assert without_folder(store.get("first/levels.csv").decode()) == without_folder(table)


def test_tasks_of_a_cluster_measure_what_lies_at_urls_and_the_command_has_what_they_found(
    study: TinyStudy, bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs ray")
    runs = tmp_path / "runs"
    save_config(make_run(runs / "of_level_4" / "run_1", study, 4), study.config)
    send(runs, f"{bucket_url}/runs", tmp_path / "sender")
    send_caches(study.root, f"{bucket_url}/features", tmp_path / "sender")
    machine = tmp_path / "machine"
    options = (
        "--features", f"{bucket_url}/features", "--checkpoints", f"{bucket_url}/runs",
        "--report", f"{bucket_url}/reports/first", "--kept", f"{bucket_url}/kept",
        "--local-cache", str(machine), "--anchors", "float16", "--limit", "1",
    )  # fmt: skip
    found: set[str] = set()

    def analyze(*arguments: Any) -> None:
        found.update(path.name for path in arguments[-1].folder.glob("*.npz"))
        raise UserError("all is measured")

    monkeypatch.setattr("analyze.analysis.analyze", analyze)
    with in_this_process(machine):
        result = analyse(study, tmp_path, tmp_path / "unused", *options, "--ray", "local")
    assert result.output.endswith("Error: all is measured\n")
    assert "3 of 3 measured: anchor float16, point 1" in result.output
    assert "is measured here instead" not in result.output
    assert found == RemoteFolder(f"{bucket_url}/kept").sizes().keys()
    assert len(found) > 3


def without_folder(table: str) -> list[list[str]]:
    return [[value for value in line.split(",") if "/" not in value] for line in table.split()]


def test_streams_of_and_at_urls_are_those_of_folders_and_decode_with_the_models_beside_them(
    study: TinyStudy, bucket_url: str, tmp_path: Path
) -> None:
    runs = [make_run(tmp_path / "runs" / "x" / f"run_{n}", study, n) for n in range(4)]
    must_compress(study, tmp_path / "streams", runs)
    send(tmp_path / "runs", f"{bucket_url}/runs", tmp_path / "sender")
    store = RemoteFolder(f"{bucket_url}/streams")
    options = [
        each for run in runs for each in ("--run", f"{bucket_url}/runs/x/{run.name}")
    ]  # fmt: skip
    send_caches(study.root, f"{bucket_url}/features", tmp_path / "sender")
    features = ("--features", f"{bucket_url}/features")
    coded = compress(study, tmp_path, *options, *features, *at(store.url, tmp_path / "a"))
    assert coded.exit_code == 0, coded.output
    names = store.sizes()
    assert "streams.json" in names
    for name in names.keys() - {"streams.json"}:
        assert store.get(name) == (tmp_path / "streams" / name).read_bytes()
    # Another machine finds all files whole, by an ensemble whose runs lie beside it at URLs.
    ensemble = LocalCopies(tmp_path / "a").mirror(f"{bucket_url}/study")
    ensemble.path.mkdir()
    models = [LocalCopies(tmp_path / "a").path_of(f"{bucket_url}/runs/x/{r.name}") for r in runs]
    levels = CacheFolder(study.val_cache).manifest.levels
    write_ensemble(ensemble.path / "ensemble.yaml", ensemble_of_runs(models, levels))
    ensemble.push()
    options = ["--ensemble", f"{bucket_url}/study/ensemble.yaml"]
    again = compress(study, tmp_path, *options, *at(store.url, tmp_path / "b"))
    assert "3 images (0 new)" in again.output
    here, there = tmp_path / "decoded", tmp_path / "decoded_there"
    assert decompress(tmp_path / "streams", here).exit_code == 0
    options = [store.url, "--out", str(there), "--local-cache", str(tmp_path / "c")]
    result = CliRunner().invoke(decompress_features, options)
    assert result.exit_code == 0, result.output
    shards = [path.relative_to(here) for path in here.rglob("level_*/**/*") if path.is_file()]
    assert len(shards) > 5
    assert all((there / name).read_bytes() == (here / name).read_bytes() for name in shards)


def test_decoded_cache_is_not_written_to_a_url(bucket_url: str) -> None:
    result = CliRunner().invoke(decompress_features, ["streams", "--out", f"{bucket_url}/decoded"])
    assert result.exit_code == 1
    assert result.output.endswith("are decoded into a folder of this machine: name one\n")


def test_training_goes_on_while_the_store_answers_with_errors(
    study: TinyStudy, bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    answer, requests = DomainDispatcherApplication.__call__, itertools.count()

    def failing(app: Any, environ: Any, start_response: Any) -> Any:
        if next(requests) % 3:
            return answer(app, environ, start_response)
        start_response("500 Internal Server Error", [("Content-Length", "0")])
        return []

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", failing)
    url = f"{bucket_url}/runs"
    result = call(study, tmp_path, *SHORT, *at(url, tmp_path / "a"))
    assert result.exit_code == 0, result.output
    assert next(requests) > 12
    must_equal(only_run(fetched(url, tmp_path / "b")), only_run(fetched(url, tmp_path / "a")))


@pytest.mark.parametrize("command", ["train", "analyse", "compress"])
def test_missing_credentials_are_one_line_before_any_work(
    study: TinyStudy, command: str, bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    if command == "train":
        result = call(study, tmp_path, *SHORT, "--out", f"{bucket_url}/runs")
    elif command == "analyse":
        result = analyse(study, tmp_path, tmp_path, "--checkpoints", f"{bucket_url}/runs")
    else:
        result = compress(study, tmp_path, "--run", f"{bucket_url}/runs/of_level_0/run_1")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET" in result.output


def test_run_of_which_only_a_part_was_sent_is_begun_anew(
    study: TinyStudy, bucket_url: str, tmp_path: Path
) -> None:
    url = f"{bucket_url}/runs"
    begin(study, tmp_path, *SHORT, "--batch-size", "1", *at(url, tmp_path / "a"))
    store = RemoteFolder(url)
    store.delete([name for name in store.sizes() if name.endswith("run.json")])
    result = call(study, tmp_path, *SHORT, "--batch-size", "1", *at(url, tmp_path / "b"))
    assert result.exit_code == 0, result.output
    assert sum(name.endswith("run.json") for name in store.sizes()) == 1
