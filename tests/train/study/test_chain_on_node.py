"""A node of a cluster works in copies of its own, and goes on with what others have sent."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import ConfigError, MachineError
from configs.options import FeaturesPlace
from data.places.local_copies import LocalCopies
from data.places.mirrored_folder import MirroredFolder
from data.places.object_store import RemoteFolder
from data.remote.node_copies import NodeCopies
from tests.support.tiny_study import TinyStudy, tiny_config
from train.loop.job import Job
from train.runs.remote_runs import mirror_of_runs
from train.runs.run_folder import locked, save_config
from train.runs.run_record import RunRecord
from train.study import study_on_ray
from train.study.chain import RunOutcome
from train.study.chain_on_node import StudyCopies, sent


def copies_at(url: str | None, machine: Path, features: str | None = None) -> StudyCopies:
    place = FeaturesPlace(given=features, local_cache=str(machine), local_cache_gb=1)
    return StudyCopies(nodes=NodeCopies.of_command(place, ("train", "val")), out=url)


def job_on(machine: Path, url: str, study: TinyStudy, lmbda: float, level: int = 4) -> Job:
    return Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=level, device="cpu",
        config=tiny_config(lmbda=lmbda), out=LocalCopies(machine).path_of(url),
    )  # fmt: skip


def write_run(job: Job, name: str, epochs: int, finished: str | None = None) -> Path:
    """Write a run's files, as they are after so many epochs."""
    folder = job.parent / name
    folder.mkdir(parents=True, exist_ok=True)
    save_config(folder, job.config)
    for file in ("best_model.pth", "last_model.pth", "metrics.csv", "previous_model.pth"):
        (folder / file).write_text(f"{file} of epoch {epochs}")
    RunRecord(
        level=job.level, lmbda=job.config.training.lmbda, cache_fingerprints={},
        detector_weights_sha256="", versions={}, seed=0, device="cpu", precision="float32",
        compiled=None, machine="", num_processes=1, num_threads=1, started="", epochs=epochs,
        finished=finished,
    ).save(folder)  # fmt: skip
    return folder


def only_ended(mirror: MirroredFolder | None, *outcomes: RunOutcome) -> list[RunOutcome]:
    return list(sent(iter(outcomes), mirror))


def test_run_that_went_on_elsewhere_is_taken_as_it_was_sent(
    study: TinyStudy, bucket_url: str, tmp_path: Path
) -> None:
    url = f"{bucket_url}/runs"
    here, there = (job_on(tmp_path / name, url, study, 0.01) for name in ("a", "b"))
    mirror = copies_at(url, tmp_path / "a").open([here])
    assert mirror is not None
    run = write_run(here, "run_1", 1)
    mirror.push()
    # Dies; and here it is for all that this node knows: what is not sent is the best that there is.
    write_run(here, "run_1", 3)
    for of_nobody in ("training.lock", ".hidden"):  # as a copy by other tools brings them there
        RemoteFolder(url).put(f"{here.parent.name}/run_1/{of_nobody}", b"x")
    copies_at(url, tmp_path / "a").open([here])
    assert (run / "metrics.csv").read_text() == "metrics.csv of epoch 3"
    # Another one goes on from what was sent, and sends less than this one had.
    mirror = copies_at(url, tmp_path / "b").open([there])
    assert mirror is not None
    assert (there.parent / "run_1" / "last_model.pth").read_text() == "last_model.pth of epoch 1"
    write_run(there, "run_1", 2)
    mirror.push()
    copies_at(url, tmp_path / "a").open([here])
    files = {path.name: path.read_text() for path in run.iterdir()}
    assert files.keys() == {
        "best_model.pth", "last_model.pth", "metrics.csv", "config.yaml", "run.json",
    }  # fmt: skip
    assert files["last_model.pth"] == "last_model.pth of epoch 2"
    assert RunRecord.load(run).epochs == 2


def test_task_sends_its_own_runs_alone_and_fetches_no_more_than_it_needs(
    study: TinyStudy, bucket_url: str, tmp_path: Path
) -> None:
    url, machine = f"{bucket_url}/runs", tmp_path / "a"
    own, other = (job_on(machine, url, study, lmbda) for lmbda in (0.01, 0.02))
    otherwise = replace(own, config=tiny_config(lmbda=0.01, learning_rate=1e-5))
    mirror = copies_at(url, machine).open([own])
    assert mirror is not None
    write_run(own, "run_1", 2, finished="all epochs")
    write_run(other, "run_2", 1)
    write_run(otherwise, "run_3", 1)
    parent = own.parent.name
    ended = only_ended(mirror, RunOutcome(job=own, folder=own.parent / "run_1"))
    assert [outcome.error for outcome in ended] == [None]
    names = RemoteFolder(url).sizes().keys()
    assert {name.rpartition("/")[0] for name in names} == {f"{parent}/run_1"}
    mirror_of_runs(url, LocalCopies(machine)).push()
    finished = job_on(tmp_path / "b", url, study, 0.01)
    copies_at(url, tmp_path / "b").open([finished])
    files = {
        path.relative_to(finished.parent).as_posix() for path in finished.parent.glob("*/*")
    }  # fmt: skip
    assert files == {
        "run_1/best_model.pth", "run_1/config.yaml", "run_1/run.json", "run_2/config.yaml",
        "run_3/config.yaml",
    }  # fmt: skip


def test_run_that_another_command_trains_here_is_left_to_it(
    study: TinyStudy, bucket_url: str, tmp_path: Path
) -> None:
    url = f"{bucket_url}/runs"
    job = job_on(tmp_path / "a", url, study, 0.01)
    run = write_run(job, "run_1", 1)
    mirror_of_runs(url, LocalCopies(tmp_path / "a")).push()
    elsewhere = mirror_of_runs(url, LocalCopies(tmp_path / "b"))
    elsewhere.fetch()
    write_run(job_on(tmp_path / "b", url, study, 0.01), "run_1", 2)
    elsewhere.push()
    write_run(job, "run_1", 3)
    with locked(run):
        mirror = copies_at(url, tmp_path / "a").open([job])
        assert [outcome.error for outcome in only_ended(mirror)] == []
    # The other command has ended, and this one went on with the run before it was looked at again.
    (ended,) = only_ended(mirror, RunOutcome(job=job, folder=run))
    assert ended.error is not None
    assert "was not sent, as another command had it: run the same command again" in ended.error
    assert (run / "metrics.csv").read_text() == "metrics.csv of epoch 3"
    sent_before = RemoteFolder(url).get(f"{job.parent.name}/run_1/metrics.csv")
    assert sent_before == b"metrics.csv of epoch 2"


def test_run_that_could_not_be_sent_has_failed_on_a_node_that_is_named(
    study: TinyStudy, bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, machine = f"{bucket_url}/runs", tmp_path / "a"
    jobs = [job_on(machine, url, study, lmbda) for lmbda in (0.01, 0.02)]
    mirror = copies_at(url, machine).open(jobs)
    run = write_run(jobs[0], "run_1", 1)

    def refuse(*_: object) -> str:
        raise MachineError("the store is full")

    monkeypatch.setattr(RemoteFolder, "put", refuse)
    outcomes = (
        RunOutcome(job=jobs[0], folder=run),
        RunOutcome(job=jobs[1], folder=None, error="the loss is not finite", exit_code=1),
    )
    one, two = (outcome for outcome in unended(mirror, outcomes))
    node = f"(on node {socket.gethostname()})"
    assert one.folder is None
    assert one.error is not None
    assert one.error.startswith(f"{run}/")
    assert one.error.endswith(
        f"could not be sent, and stays: the same command sends it (the store is full) {node}"
    )
    assert two.error == f"the loss is not finite {node}"


def unended(
    mirror: MirroredFolder | None, outcomes: tuple[RunOutcome, ...]
) -> Iterator[RunOutcome]:
    """Yield what is told of each, before the end, at which all is tried to be sent once more."""
    told = sent(iter(outcomes), mirror)
    yield from (next(told) for _ in outcomes)


def test_task_whose_machine_is_taken_away_has_sent_what_it_saved_before_it_ends(
    study: TinyStudy, bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket_url}/runs"
    job = job_on(tmp_path, url, study, 0.01)

    def interrupted(*_: object) -> Iterator[RunOutcome]:
        os.kill(os.getpid(), signal.SIGTERM)
        write_run(job, "run_1", 1)
        yield RunOutcome(job=job, folder=None, error="stopped", exit_code=128 + signal.SIGTERM)

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(study_on_ray, "run_chain", interrupted)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit):
        list(study_on_ray._train_chain([job], copies_at(url, tmp_path)))
    assert f"{job.parent.name}/run_1/last_model.pth" in RemoteFolder(url).sizes()


def test_node_without_credentials_is_one_line_that_names_it(
    study: TinyStudy, bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    job = job_on(tmp_path, f"{bucket_url}/runs", study, 0.01)
    for study_copies in (
        copies_at(f"{bucket_url}/runs", tmp_path),
        copies_at(None, tmp_path, features=f"{bucket_url}/features"),
    ):
        with pytest.raises(
            ConfigError, match=rf"no credentials were found.* \(on node {socket.gethostname()}\)"
        ):
            study_copies.open([job])


def test_study_in_folders_alone_has_nothing_to_copy(study: TinyStudy, tmp_path: Path) -> None:
    job = job_on(tmp_path, "s3://bucket/runs", study, 0.01)
    nothing = copies_at(None, tmp_path, features=str(study.root))
    assert not nothing.are_of([job])
    begun_from = tiny_config(init_from="s3://bucket/runs/x/run_1")
    assert nothing.are_of([Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=4, device="cpu",
        config=begun_from,
    )])  # fmt: skip
