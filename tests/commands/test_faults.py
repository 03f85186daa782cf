"""Full disk, read-only folder, lost mount: one clear line, nothing lost, the next run goes on.

The file systems are real ones, mounted in a mount namespace of the test's own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.extraction import TinyCache, error_of, fingerprints, must_extract, run_extract

ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]

# `extract` notes the exit code and the error, and each script what else it sees.
PREAMBLE = """
import json, os, shutil, subprocess, sys, threading, time
from pathlib import Path
import pytest, torch
torch.set_num_threads(1)
from data.verification.check import verify_cache
from tests.support.extraction import run_extract, fingerprints
from tests.support.remembered_scenes import remember_scenes

def extract():
    result = run_extract(config, folder)
    error = [x for x in result.output.splitlines() if x.startswith("Error: ")]
    said.append([result.exit_code, error])

def mount(*arguments):
    subprocess.run(["mount", *arguments, folder], check=True)

remember_scenes(pytest.MonkeyPatch())
config, root = Path(sys.argv[1]), Path(sys.argv[2])
told = {}
for name, script in json.load(sys.stdin).items():
    folder, said = root / name, told.setdefault(name, [])
    cache = folder / "train"
    folder.mkdir()
    exec(script)
print(json.dumps(told))
"""
FULL_DISK = """
mount("-t", "tmpfs", "-o", "size=2m", "tmpfs")
extract()
said.append([sorted(p.name for p in cache.rglob("*") if p.suffix == ".part")])
# Somebody else takes the space after it was found to be free.
real = shutil.disk_usage
shutil.disk_usage = lambda path: type(real(path))(10**12, 0, 10**12)
extract()
shutil.disk_usage = real
found = verify_cache(cache)
said.append([d.reason for d in found.damages if d.reason != "images not extracted yet"])
said[-1].append(found.num_bytes)
mount("-o", "remount,size=100m")
extract()
said.append(fingerprints(cache))
"""
READ_ONLY_FOLDER = """
mount("-t", "tmpfs", "-o", "size=100m", "tmpfs")
mount("-o", "remount,ro")
extract()
mount("-o", "remount,rw")
extract()
mount("-o", "remount,ro")
extract()
said.append([d.reason for d in verify_cache(cache).damages])
"""
LOST_MOUNT = """
store = root / "store"
store.mkdir()
mount("--bind", store)

def lose():
    log = store / "train" / "commits.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\\n") > 1):
        time.sleep(0.001)
    subprocess.run(["umount", "--lazy", folder], check=True)

thread = threading.Thread(target=lose)
thread.start()
extract()
thread.join()
said.append(sorted(str(p) for p in folder.rglob("*")))
mount("--bind", store)
extract()
said.append(fingerprints(cache))
"""


def can_mount(folder: Path) -> bool:
    command = [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def told(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each script collected in `said`: all in one process, whose start takes most of it."""
    folder = tmp_path_factory.mktemp("namespace")
    if not can_mount(folder):
        pytest.skip("this machine lets nobody mount a file system in a namespace")
    scripts = {"full": FULL_DISK, "read only": READ_ONLY_FOLDER, "lost": LOST_MOUNT}
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-c", PREAMBLE, str(tiny_config), str(folder)],
        input=json.dumps(scripts),
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_full_disk_loses_nothing_that_was_committed(
    told: dict[str, list[Any]], zarr_cache: TinyCache
) -> None:
    refused, nothing, full, state, done, prints = told["full"]
    (code, (error,)), (full_code, (full_error,)) = refused, full
    assert code == full_code == 1
    assert "GB are free: free space, or store less" in error
    assert nothing == [[]]
    assert "cannot be written (No space left on device): nothing committed is lost" in full_error
    *reasons, num_bytes = state
    assert num_bytes > 0
    assert reasons == []
    assert done == [0, []]
    assert prints == fingerprints(zarr_cache.folder)


def test_read_only_folder_is_one_line_unless_all_is_there(told: dict[str, list[Any]]) -> None:
    refused, done, again, verified = told["read only"]
    code, (error,) = refused
    assert code == 1
    assert "cannot be written (Read-only file system): choose another --features" in error
    assert done == again == [0, []]
    assert verified == []


def test_mount_lost_in_the_middle_is_one_line_and_the_next_run_goes_on(
    told: dict[str, list[Any]], zarr_cache: TinyCache
) -> None:
    lost, left, done, prints = told["lost"]
    code, (error,) = lost
    assert code == 1
    assert "cannot be written (No such file or directory): nothing committed is lost" in error
    assert left == []
    assert done == [0, []]
    assert prints == fingerprints(zarr_cache.folder)


def test_file_size_limit_is_one_line_and_the_next_run_goes_on(
    tiny_config: Path, zarr_cache: TinyCache, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        error = error_of(run_extract(tiny_config, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written (File too large): nothing committed is lost" in error
    must_extract(tiny_config, tmp_path)
    assert fingerprints(tmp_path / "train") == fingerprints(zarr_cache.folder)
