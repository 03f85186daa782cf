"""The page on scaling: its tables are those of the model, its batch script does what it says."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "scaling.md").read_text(encoding="utf-8")
SCRIPT = PROJECT / "examples" / "slurm" / "study.sbatch"

STAND_INS = {
    "scontrol": 'echo "$SLURM_JOB_NODELIST" | tr , "\\n"',
    # What it starts stays until the job ends, as `ray start --block` does.
    "srun": "exec sleep 60",
    # It answers when it is asked for the second time, and each time one more node has joined.
    "ray": """
        asked=$(grep -c ^ray "$RECORD")
        for ((i = 1; i < asked; i++)); do echo " 1 node_$i"; done
        [ "$asked" -gt 1 ]
    """,
    "extract-features": "true",
    "train-level": 'exec sleep "${TRAINING_S:-0}"',
    "analyze-levels": "true",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Stand-ins for Slurm, Ray and our commands, each of which records how it was called."""
    for name, does in STAND_INS.items():
        program = tmp_path / name
        program.write_text(
            f'#!/bin/bash\necho "{name} $*" >> "$RECORD"\n{does}\n', encoding="utf-8"
        )
        program.chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record"),
        "SLURM_JOB_NODELIST": "n1,n2,n3",
        "LAMBDAS": "0.01 0.1",
    }


def calls(environment: dict[str, str]) -> list[str]:
    record = Path(environment["RECORD"])
    return record.read_text(encoding="utf-8").splitlines() if record.exists() else []


def test_tables_of_the_page_are_those_of_the_model() -> None:
    for table in runpy.run_path(str(PROJECT / "docs" / "scaling.py"))["tables"]():
        assert table in PAGE, f"python docs/scaling.py prints what belongs there:\n{table}"


def test_the_page_shows_the_batch_script_as_it_is() -> None:
    assert SCRIPT.read_text(encoding="utf-8") in PAGE


def test_the_batch_script_starts_ray_on_all_nodes_and_runs_the_commands_there(
    environment: dict[str, str],
) -> None:
    start = time.monotonic()
    subprocess.run(["bash", SCRIPT], env=environment, check=True, timeout=60)
    assert time.monotonic() - start < 50, "it does not wait for Ray, which only ends with it"
    recorded = calls(environment)
    begun = recorded.index(next(line for line in recorded if line.startswith("extract-features")))
    # There is no answer to the first, the others see one node, two, and all three.
    assert recorded[:begun].count("ray status --address n1:6379") == 4
    told = [line for line in recorded if not line.startswith(("ray status", "scontrol show"))]
    # Beside each other: a second node's Ray may be recorded after the first command.
    assert sorted(told) == sorted(
        [
            "srun --overlap --nodes=1 --ntasks=1 --nodelist=n1 "
            "ray start --head --port=6379 --block",
            "srun --overlap --nodes=2 --ntasks=2 --exclude=n1 ray start --address=n1:6379 --block",
            "extract-features --config mine.yaml --split train --split val --ray n1:6379",
            "train-level --config mine.yaml --level all --lambda 0.01 --lambda 0.1 "
            "--ray n1:6379 --ray-gpus 0.5",
            "analyze-levels --config mine.yaml --ray n1:6379",
        ]
    )
    commands = [line.partition(" ")[0] for line in told if not line.startswith("srun")]
    assert commands == ["extract-features", "train-level", "analyze-levels"]


def test_a_batch_script_that_is_told_to_stop_passes_it_on_and_leaves_nothing_running(
    environment: dict[str, str],
) -> None:
    job = subprocess.Popen(
        ["bash", SCRIPT], env=environment | {"TRAINING_S": "60"}, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not any(line.startswith("train-level") for line in calls(environment)):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 143
    assert not any(line.startswith("analyze-levels") for line in calls(environment))
    with pytest.raises(ProcessLookupError):
        os.killpg(job.pid, 0)  # nobody is left in its group
