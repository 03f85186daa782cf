"""Memory that is freed is there for the next tensor, without the system's help."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, torch
from configs.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(25_000_000)  # 100 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(("own", "is_kept"), [({}, True), ({"MALLOC_TOP_PAD_": "131072"}, False)])
def test_memory_of_a_large_tensor_is_kept_unless_the_user_says_how(
    own: dict[str, str], is_kept: bool
) -> None:
    environment = {name: v for name, v in os.environ.items() if not name.startswith("MALLOC_")}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[1], env=environment | own, capture_output=True, text=True,
        check=True, timeout=300,
    )  # fmt: skip
    # In pages of 4 KB there are 24,400 faults, in huge ones 48.
    assert (int(result.stdout) < 20) == is_kept
