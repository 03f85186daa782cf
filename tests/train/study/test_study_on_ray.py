"""Studies on a cluster of two nodes: the runs are those of a study in one process."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.options import FeaturesPlace
from data.places.local_copies import LocalCopies
from data.places.object_store import RemoteFolder
from data.remote.node_copies import NodeCopies
from tests.support.extraction import TinyCache
from tests.support.ray_nodes import who_holds
from tests.support.remote_caches import send_caches
from tests.support.resumed_runs import SAVE_ALWAYS, must_equal
from tests.support.sending_tasks import train_chain_sending_often
from tests.support.tiny_study import TinyStudy, tiny_config
from tests.support.training_command import call
from tests.support.training_process import differences, rows_without_times, training_state
from train.loop.job import Job
from train.machine.distributed import ALONE, World
from train.runs.run_folder import LOCK_NAME
from train.runs.run_record import RunRecord
from train.study.chain import RunOutcome
from train.study.chain_on_node import StudyCopies
from train.study.study import run_study
from train.study.study_on_ray import refuse_beside_ray, run_study_on_ray

pytest.importorskip("ray", reason="needs ray")


def job_of(cache: TinyCache, out: Path, lmbda: float, **more: Any) -> Job:
    """A run that draws random numbers, and saves all the time."""
    drawing = {"cutmix": 0.5, "input_noise": 0.1, "save_interval_s": 0}
    config = tiny_config(**{"lmbda": lmbda, "batch_size": 3, "epochs": 3, **drawing, **more})
    no_pictures = config.validation.model_copy(update={"num_samples": 0})
    return Job(
        train_cache=cache.folder, val_cache=cache.folder, level=4, device="cpu", out=out,
        config=config.model_copy(update={"validation": no_pictures}),
    )  # fmt: skip


def in_one_process(jobs: Sequence[Job]) -> list[RunOutcome]:
    return list(run_study(jobs, go_on=True, num_jobs=1, log_level="info", world=ALONE))


def on_ray(
    jobs: Sequence[Job], address: str, num_cpus: float = 1, at_urls: StudyCopies | None = None
) -> list[RunOutcome]:
    return list(
        run_study_on_ray(
            jobs, address=address, device="cpu", num_cpus=num_cpus, num_gpus=None,
            log_level="info", at_urls=at_urls,
        )
    )  # fmt: skip


def by_lambda(outcomes: Sequence[RunOutcome]) -> dict[float, RunOutcome]:
    return {each.job.config.training.lmbda: each for each in outcomes}


def assert_same_run(one: RunOutcome, other: RunOutcome) -> None:
    assert one.folder is not None and other.folder is not None, (one.error, other.error)
    for name in ("last_model.pth", "best_model.pth"):
        files = [training_state(each.folder / name) for each in (one, other)]  # type: ignore[operator]
        assert not differences(
            *({key: file[key] for key in file if key != "config"} for file in files)
        )
    assert rows_without_times(one.folder) == rows_without_times(other.folder)
    names = [
        {path.name for path in folder.iterdir() if not path.name.startswith("events.")}
        for folder in (one.folder, other.folder)
    ]
    assert names[0] == names[1]
    assert (one.folder / "config.yaml").read_bytes() == (other.folder / "config.yaml").read_bytes()
    assert RunRecord.load(one.folder).finished == RunRecord.load(other.folder).finished


def test_study_becomes_what_it_becomes_in_one_process_and_a_run_that_fails_is_told_alike(
    zarr_cache: TinyCache, tmp_path: Path, ray_address: str
) -> None:
    def study(out: Path) -> list[Job]:
        chain = [job_of(zarr_cache, out, lmbda, warm_start=True) for lmbda in (0.01, 0.02)]
        return [job_of(zarr_cache, out, 0.5, learning_rate=1e30), *chain]

    found = by_lambda(on_ray(study(tmp_path / "ray"), ray_address))
    expected = by_lambda(in_one_process(study(tmp_path / "one")))
    assert_same_run(found[0.01], expected[0.01])
    assert_same_run(found[0.02], expected[0.02])
    assert found[0.5].error is not None
    assert expected[0.5].error is not None
    told = found[0.5].error.replace(f"{tmp_path}/ray", f"{tmp_path}/one")
    assert told.split("run_")[0] == expected[0.5].error.split("run_")[0]
    assert found[0.5].exit_code == expected[0.5].exit_code
    again = on_ray(study(tmp_path / "ray")[1:], ray_address)
    assert [each.was_finished for each in again] == [True, True]


def test_killed_task_goes_on_from_its_own_checkpoint_to_the_same_end(
    zarr_cache: TinyCache, tmp_path: Path, ray_address: str, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("data.system.ray_tasks._PAUSE_S", 1.0)  # between two deaths
    job = job_of(zarr_cache, tmp_path / "ray", 0.01, epochs=24)
    rows_at_death: list[int] = []

    def kill() -> None:
        for number in (signal.SIGKILL, signal.SIGTERM):
            rows_at_death.append(_kill_in_the_middle(tmp_path / "ray", rows_at_death, number))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    (found,) = on_ray([job], ray_address)
    killer.join(timeout=1)
    assert len(rows_at_death) == 2, "the run was not killed in the middle"
    assert caplog.text.count("level 4, lambda 0.01: its process was killed: it begins again") == 2
    assert len(list((tmp_path / "ray").glob("*/run_*"))) == 1
    (expected,) = in_one_process([job_of(zarr_cache, tmp_path / "one", 0.01, epochs=24)])
    assert_same_run(found, expected)
    assert not found.was_finished


def _kill_in_the_middle(out: Path, rows_before: Sequence[int], number: int) -> int:
    """Send a signal to who trains when more epochs are behind it; return how many."""
    least = rows_before[-1] + 5 if rows_before else 5
    while True:
        time.sleep(0.01)
        for run in out.glob("*/run_*"):
            with suppress(OSError, LookupError):
                rows = len((run / "metrics.csv").read_text().splitlines())
                if rows >= least:
                    os.kill(who_holds(run / LOCK_NAME), number)
                    return rows


def test_stopped_study_has_saved_and_sent_and_the_same_command_goes_on(
    zarr_cache: TinyCache, bucket_url: str, tmp_path: Path, ray_address: str
) -> None:
    # Of four cores a task takes all of a node: the third run has not begun. Were nothing stopped,
    # it would end in a minute.
    place = FeaturesPlace(given=None, local_cache=str(tmp_path), local_cache_gb=1)
    nodes, url = NodeCopies.of_command(place, ()), f"{bucket_url}/runs"
    out = nodes.copies.path_of(url)
    jobs = [
        replace(job_of(zarr_cache, out, lmbda, epochs=500), copies=nodes.copies)
        for lmbda in (0.01, 0.02, 0.03)
    ]

    def stop() -> None:
        while len(list(out.glob("*/run_*/last_model.pth"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    outcomes = on_ray(jobs, ray_address, num_cpus=2, at_urls=StudyCopies(nodes=nodes, out=url))
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert outcome.exit_code == 128 + signal.SIGTERM
        assert outcome.error is not None
        assert outcome.error.startswith("stopped by SIGTERM; what had begun is saved, and sent")
    runs = list(out.glob("*/run_*"))
    assert len(runs) == 2
    for run in runs:
        assert RunRecord.load(run).finished is None
        assert not (run / LOCK_NAME).exists()
        its = RemoteFolder(f"{url}/{run.parent.name}/{run.name}")
        for name in ("last_model.pth", "metrics.csv", "run.json"):
            assert its.get(name) == (run / name).read_bytes()


def test_killed_task_goes_on_from_what_it_sent_where_all_lies_at_urls_and_nothing_is_shared(
    study: TinyStudy, bucket_url: str, tmp_path: Path, ray_address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("train.study.study_on_ray._train_chain", train_chain_sending_often)
    settings = (
        "--level", "4", "--lambda", "0.01", "--lambda", "0.02", "--epochs", "24",
        "--batch-size", "3", "--set", "validation.num_samples=0", *SAVE_ALWAYS,
    )  # fmt: skip
    features, runs = f"{bucket_url}/features", f"{bucket_url}/runs"
    copies = LocalCopies(tmp_path / "copies")
    send_caches(study.root, features, tmp_path / "sender")
    killed: list[Path] = []

    def kill() -> None:
        # The task that takes a run over finds nothing of it on its disk.
        store = RemoteFolder(runs)
        while not killed:
            time.sleep(0.1)
            for name in [name for name in store.sizes() if name.endswith("run.json")]:
                run = copies.path_of(f"{runs}/{name}").parent
                with suppress(OSError, LookupError):
                    if not killed and len(rows_without_times(run)) >= 4:
                        os.kill(who_holds(run / LOCK_NAME), signal.SIGKILL)
                        shutil.rmtree(run)
                        killed.append(run)

    threading.Thread(target=kill, daemon=True).start()
    result = call(
        study, tmp_path, *settings, "--features", features, "--out", runs,
        "--local-cache", str(copies.folder), "--ray", ray_address,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(killed) == 1, "no run was killed in the middle"
    assert f"{killed[0].name}\n" in result.output
    assert result.output.count("its process was killed: it begins again") == 1
    assert result.output.count(f" -> {runs}/fpn_specific_level_compression_level_4/run_") == 2
    assert call(study, tmp_path / "undisturbed", *settings).exit_code == 0
    there = LocalCopies(tmp_path / "another").fetched(runs)
    assert len(list(there.glob("*/run_*"))) == 2
    for run in there.glob("*/run_*"):
        (same,) = (tmp_path / "undisturbed").glob(f"*/run_*_{run.name.split('_')[4]}_*")
        must_equal(run, same)


NOWHERE = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--jobs", "2"), "--jobs: is done on this machine alone: leave out --ray"),
        ((), f"--ray {NOWHERE}: nobody answers there"),
    ],
)
def test_what_a_cluster_does_not_do_is_refused_in_one_line(
    study: TinyStudy, tmp_path: Path, options: Sequence[str], told: str
) -> None:
    result = call(study, tmp_path, "--level", "4", "--ray", NOWHERE, *options)
    assert result.exit_code == 1
    assert told in result.stderr.splitlines()[-1]


def test_ranks_of_torchrun_and_to_begin_anew_are_refused() -> None:
    with pytest.raises(ConfigError, match="--ray: its tasks train one run each"):
        refuse_beside_ray(World(rank=0, size=2), resume="auto")
    with pytest.raises(ConfigError, match="--resume never: with --ray a task that dies goes on"):
        refuse_beside_ray(ALONE, resume="never")


def test_dry_run_needs_no_cluster(study: TinyStudy, tmp_path: Path) -> None:
    options = ("--level", "4", "--dry-run")
    on_cluster = call(study, tmp_path, *options, "--ray", NOWHERE, "--ray-gpus", "0.5")
    assert on_cluster.exit_code == 0, on_cluster.output
    here = call(study, tmp_path, *options)
    # What was measured, and so the limit that is named, differs from run to run.
    begins = [[line.split()[0] for line in each.stdout.splitlines()] for each in (on_cluster, here)]
    assert begins[0] == begins[1]
