"""A grid of runs in one command: nothing is trained twice, and no failure costs the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.tiny_study import TinyStudy, tiny_config
from tests.support.training_command import call, pairs_of
from tests.support.training_process import options_of, rows_without_times, start_training, wait_for
from train.cli import train_level
from train.loop.job import Job
from train.machine.distributed import ALONE
from train.runs.checkpoint import load_codec
from train.runs.run_folder import find_runs
from train.runs.run_record import RunRecord
from train.study.chain import RunOutcome
from train.study.study import PRELOADED, _received, _Worker, processes_for, run_study

GRID = (
    "--level", "all", "--lambda", "0.01", "--lambda", "0.001", "--epochs", "1",
)  # fmt: skip
ALL_PAIRS = [(level, lmbda) for level in range(5) for lmbda in (0.001, 0.01)]


def test_grid_is_trained_once_and_by_two_at_a_time_as_by_one(
    study: TinyStudy, tmp_path: Path
) -> None:
    result = call(study, tmp_path / "two", *GRID, "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert pairs_of(tmp_path / "two") == ALL_PAIRS
    assert len(result.stdout.splitlines()) == 10
    again = call(study, tmp_path / "two", *GRID, "--jobs", "2")
    assert again.exit_code == 0, again.output
    assert again.stdout.count("(finished before)") == 10
    assert pairs_of(tmp_path / "two") == ALL_PAIRS
    one = call(study, tmp_path / "one", "--level", "4", *GRID[2:])
    assert one.exit_code == 0, one.output
    for run in find_runs(tmp_path / "one"):
        (twin,) = [
            other
            for other in find_runs(tmp_path / "two")
            if (other.level, other.lmbda) == (run.level, run.lmbda)
        ]
        infos = [load_codec(each.folder / "best_model.pth")[1] for each in (run, twin)]
        assert infos[0].model_sha256 == infos[1].model_sha256


@pytest.mark.parametrize(
    ("jobs", "number"), [("1", signal.SIGTERM), ("2", signal.SIGTERM), ("2", signal.SIGINT)]
)
def test_interrupted_study_goes_on_with_the_same_command(
    study: TinyStudy, tmp_path: Path, jobs: str, number: signal.Signals
) -> None:
    out, output = tmp_path / "runs", tmp_path / "output"
    lambdas = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
    grid = [option for lmbda in lambdas for option in ("--lambda", f"{lmbda}")]
    more = ("--level", "4", *grid, "--epochs", "5", "--batch-size", "1", "--jobs", jobs)
    process = start_training(options_of(study, out, *more), output)
    wait_for(process, lambda: len(list(out.glob("*/run_*"))) >= 3)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    said = output.read_text()
    assert process.exitcode == 128 + number, said
    assert f"stopped by {number.name}" in said.splitlines()[-1]
    assert said.count("SIGTERM") == (said.count("SIG") if number == signal.SIGTERM else 0)
    begun = {run.folder for run in find_runs(out)}
    # In this process, where those of a study have been loaded before.
    result = call(study, out, *more)
    assert result.exit_code == 0, result.output
    assert pairs_of(out) == [(4, lmbda) for lmbda in lambdas]
    assert begun <= {run.folder for run in find_runs(out)}
    for run in find_runs(out):
        assert [row["epoch"] for row in rows_without_times(run.folder)] == [
            str(n) for n in range(1, 6)
        ]


def test_processes_of_a_killed_study_stop_and_the_same_command_goes_on(
    study: TinyStudy, tmp_path: Path
) -> None:
    out, output = tmp_path / "runs", tmp_path / "output"
    options = options_of(
        study, out, "--level", "4", *GRID[2:-1], "10", "--batch-size", "1", "--jobs", "2",
        "--set", "training.early_stopping.enabled=false",
    )  # fmt: skip
    process = start_training([*options, "--epochs", "5000"], output)
    wait_for(process, lambda: len(list(out.glob("*/run_*/metrics.csv"))) == 2)
    process.kill()
    process.join()
    deadline = time.monotonic() + 300
    for run in [path.parent for path in out.glob("*/run_*/metrics.csv")]:
        while not (run / "last_model.pth").exists():
            assert time.monotonic() < deadline, "the run was neither stopped nor saved"
            time.sleep(0.05)
        assert RunRecord.load(run).finished is None


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_run_that_fails_does_not_cost_the_others(
    study: TinyStudy, tmp_path: Path, jobs: str
) -> None:
    weights = tmp_path / "weights.json"
    ones = ", ".join(["1.0"] * 256)
    weights.write_text(f'{{"levels": {{"2": [{ones}], "4": [1.0], "3": [{ones}]}}}}')
    result = call(
        study, tmp_path, "--level", "all", "--epochs", "1", "--jobs", jobs,
        "--set", "training.distortion=channel_weighted",
        "--set", f"training.channel_weights={weights}",
    )  # fmt: skip
    assert result.exit_code == 1
    assert pairs_of(tmp_path) == [(2, 0.001), (3, 0.001)]
    last = result.stderr.splitlines()[-1]
    assert "level 0, lambda 0.001: training.channel_weights" in last
    assert "level 4, lambda 0.001: training.channel_weights" in last


def test_signal_to_all_processes_of_a_study_saves_every_run(
    study: TinyStudy, tmp_path: Path
) -> None:
    """As batch systems send it: to the study, to its processes, and from the study to these."""
    out, output = tmp_path / "runs", tmp_path / "output"
    options = options_of(
        study, out, "--level", "4", *GRID[2:-1], "100000", "--batch-size", "1", "--jobs", "2",
        "--set", "training.early_stopping.enabled=false",
    )  # fmt: skip
    process = start_training(options, output, own_group=True)
    wait_for(process, lambda: len(list(out.glob("*/run_*/metrics.csv"))) >= 2)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGTERM)
    for _ in range(20):  # once more, whatever they are about to do
        time.sleep(0.01)
        for member in group_of(process.pid) - {process.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGTERM)
    process.join(timeout=300)
    assert process.exitcode == 128 + signal.SIGTERM, output.read_text()
    assert output.read_text().splitlines()[-1].count("stopped by SIGTERM in epoch") == 2
    for run in [path.parent for path in out.glob("*/run_*/metrics.csv")]:
        assert (run / "last_model.pth").exists()
        assert RunRecord.load(run).finished is None


def group_of(leader: int) -> set[int]:
    """The processes of a process group."""
    members = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[2]) == leader:
                members.add(int(path.parent.name))
    return members


@pytest.mark.parametrize(("in_order", "named"), [(True, [0.01]), (False, [0.01, 0.1])])
def test_run_whose_process_is_killed_is_the_one_that_is_named(
    study: TinyStudy, in_order: bool, named: list[float]
) -> None:
    """Of runs in order, that is; of runs in lock-step all that were under way are."""
    jobs = [
        Job(
            train_cache=study.train_cache, val_cache=study.val_cache, level=4, device="cpu",
            config=tiny_config(lmbda=lmbda, warm_start=in_order),
        )
        for lmbda in (0.001, 0.01, 0.1)
    ]  # fmt: skip
    mine, its = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_die_after_one, args=(its, jobs))
    process.start()
    its.close()
    running = {mine: _Worker(process=process, left=list(jobs))}
    told = [outcome for _ in range(2) for outcome in _received(mine, running, None)]
    assert [outcome.job.config.training.lmbda for outcome in told] == [0.001, *named]
    assert told[0].error is None
    for outcome in told[1:]:
        assert outcome.error is not None
        assert outcome.error.startswith("its process was killed, perhaps for lack of memory")
        assert outcome.exit_code == 128 + signal.SIGKILL
    assert running == {}


def test_processes_are_forked_for_a_cpu_and_spawned_for_a_gpu() -> None:
    assert processes_for("cpu").get_start_method() == "forkserver"
    assert processes_for("cuda").get_start_method() == "spawn"
    assert processes_for("cuda:1").get_start_method() == "spawn"


def test_of_all_that_is_imported_only_torch_geometric_asks_for_the_gpus() -> None:
    """Forks of a process that has asked cannot use a GPU; another guilty import is named here."""
    script = f"""
import importlib, sys, torch

asking = set()

def of_others(frame):
    while frame.f_globals["__name__"].partition(".")[0] in ("torch", "importlib", "__main__"):
        frame = frame.f_back
    return frame.f_globals["__name__"]

def record(owner, name):
    real = getattr(owner, name, None)
    if real is not None:
        def recorded(*given, **more):
            asking.add(of_others(sys._getframe(1)))
            return real(*given, **more)
        setattr(owner, name, recorded)

for name in ("_cuda_init", "_cuda_getDeviceCount", "_show_config", "_get_accelerator"):
    record(torch._C, name)
record(torch.cuda, "_lazy_init")
for name in {PRELOADED}:
    importlib.import_module(name)
print(*asking)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert set(done.stdout.decode().split()) <= {"torch_geometric.typing"}


def test_processes_at_once_train_in_lock_step_what_takes_the_same_batches(
    study: TinyStudy, tmp_path: Path
) -> None:
    jobs = [
        Job(
            train_cache=study.train_cache, val_cache=study.val_cache, level=level, device="cpu",
            config=tiny_config(lmbda=lmbda, epochs=1), out=tmp_path,
        )
        for level in (3, 4)
        for lmbda in (0.001, 0.01)
    ]  # fmt: skip
    for was_finished in (False, True):
        ended = run_study(
            jobs, go_on=True, num_jobs=2, log_level="warning", world=ALONE, lock_step=True
        )
        outcomes = list(ended)
        assert [(each.error, each.was_finished) for each in outcomes] == [(None, was_finished)] * 4
    assert pairs_of(tmp_path) == [(level, lmbda) for level in (3, 4) for lmbda in (0.001, 0.01)]


@pytest.mark.gpu
@pytest.mark.parametrize("levels", ["4", "all"])
def test_study_is_trained_on_a_gpu_by_several_processes(
    study: TinyStudy, tmp_path: Path, levels: str
) -> None:
    options = options_of(study, tmp_path, "--level", levels, *GRID[2:], "--jobs", "2")
    result = CliRunner().invoke(train_level, [*options, "--device", "cuda"])
    assert result.exit_code == 0, result.output
    assert pairs_of(tmp_path) == [pair for pair in ALL_PAIRS if levels == "all" or pair[0] == 4]


def _die_after_one(out: Connection, jobs: list[Job]) -> None:
    out.send(RunOutcome(job=jobs[0], folder=Path("run"), was_finished=True))
    os.kill(os.getpid(), signal.SIGKILL)
