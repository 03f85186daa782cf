"""Read altered files in this process, which is bounded for it, and write down what came of each."""

from __future__ import annotations

import json
import logging
import re
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from configs.errors import UserError, lack_of_memory
from tests.fuzzing.kinds import KINDS
from tests.fuzzing.subject import Subject

ROOM_BYTES = 400 * 2**20
"""Beyond what the process has when its files are whole."""
MOST_SECONDS = 20
"""Of a core, for one file."""
MOST_AT_ONCE = 1000
"""Of a kind, in one process: Hypothesis keeps much of what it has made, which is not to count."""
FAULT = "fault"
LOG_NAME = "log.jsonl"
_MOST_LETTERS = 2000  # of a message, of which the file's own name is a part
_LAST = "last_file"
_ROOT = Path(__file__).parents[2]


def attack(folder: Path, due: Mapping[str, int], first_seed: int) -> None:
    """Alter each kind of file so often, or as often as one process may.

    Each file's outcome is a line of the log in `folder`.
    """
    torch.set_num_threads(1)
    logging.disable()
    warnings.simplefilter("ignore")
    with (folder / LOG_NAME).open("w", encoding="utf-8", buffering=1) as log:
        for name, number in due.items():
            place = _place(folder, name)
            if not place.exists():
                place.mkdir()
            (place / str(first_seed)).mkdir()
            subject = KINDS[name](place / str(first_seed))
            _require_whole(name, subject)
            at_once = min(number, MOST_AT_ONCE)
            _attack(name, subject, at_once, first_seed, log, place / _LAST)


def last_file(folder: Path, name: str) -> Path:
    """Return a copy of the file of a kind that was altered last."""
    return _place(folder, name) / _LAST


def _place(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "_")


def _require_whole(name: str, subject: Subject) -> None:
    """Raise what is wrong with files that nobody has altered."""
    rendered = [subject.rendered(each) for each in subject.contents if subject.rendered]
    for data in (*subject.whole, *rendered):
        _put(subject.path, data)
        assert subject.read() is not None, name


def _attack(
    name: str, subject: Subject, number: int, first_seed: int, log: TextIO, last: Path
) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    left = iter(range(number))

    @settings(
        max_examples=number, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @seed(first_seed)
    @given(subject.altered())
    def read_altered(data: bytes) -> None:
        if next(left, None) is None:
            return
        _put(last, data)
        _put(subject.path, data)
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)  # it kills, whatever C is doing
        begun = time.process_time()
        outcome, fault = _outcome(subject)
        seconds = time.process_time() - begun
        signal.setitimer(signal.ITIMER_PROF, 0)
        line = {"kind": name, "outcome": outcome, "seconds": seconds, "fault": fault}
        log.write(json.dumps(line) + "\n")
        if fault:
            _put(last.with_name(f"{abs(hash(fault))}.fault"), data)

    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, before[1]))
    try:
        read_altered()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _put(path: Path, data: bytes) -> None:
    """Write a new file: what was there may be mapped still."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def _outcome(subject: Subject) -> tuple[str, str]:
    """Return what came of reading a file, and what the fault is if it is one.

    What has been read and cannot be used may be None, too: it is made anew.
    """
    try:
        found = subject.read()
    except UserError as error:
        problem = _problem_of(error)
        return (FAULT, problem) if problem else ("own error", "")
    except Exception as error:
        return FAULT, f"{_first_line(error)} at {_where(error)}"
    return "own error" if found is None else "data", ""


def _problem_of(error: UserError) -> str:
    """Say what is wrong with an error that is ours; nothing, if it is as it should be."""
    text = str(error)
    if "\n" in text or len(text) > _MOST_LETTERS:
        return (
            f"a message of {len(text)} letters, {text.count(chr(10)) + 1} lines at {_where(error)}"
        )
    for each in _causes(error):
        if lack_of_memory(each) or re.search(r"\bmemory\b", str(each)):
            return f"more memory than there is asked for: {_first_line(each)} at {_where(each)}"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__ or error.__context__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200].partition(chr(10))[0]}"


def _where(error: BaseException) -> str:
    """Return the last place in our own code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if Path(each.filename).parent.is_relative_to(_ROOT)]
    last = [each for each in ours if ".venv" not in each.filename][-1:] or frames[-1:]
    return " ".join(f"{each.filename.removeprefix(str(_ROOT))}:{each.lineno}" for each in last)
