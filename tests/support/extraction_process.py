"""extract-features in processes that can be killed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from extract.cli import extract_features
from tests.support.forked import start


def start_extraction(config: Path, features: Path, output: Path, *options: str) -> BaseProcess:
    """Start the command on the split train; what it prints goes to a file."""
    named = ["--config", str(config), "--features", str(features), *options]
    return start(run_as_process, named, output)


def run_as_process(options: Sequence[str], output: Path) -> None:
    """Run the command as a process of its own does: exit code and printed text, nothing else."""
    torch.set_num_threads(1)
    with output.open("w", encoding="utf-8") as file:
        sys.stdout = sys.stderr = file
        extract_features(["--split", "train", "--device", "cpu", *options])
