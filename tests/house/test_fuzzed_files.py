"""Files of every kind, altered: data or our own error, within bounds of memory and time."""

from __future__ import annotations

from pathlib import Path

from tests.fuzzing.campaign import campaign, table

NUM_FILES = 100
"""Of each kind; `make fuzz` alters ten thousand."""


def test_altered_files_are_data_or_our_own_errors_in_bounded_memory_and_time(
    tmp_path: Path,
) -> None:
    outcomes = campaign(tmp_path, NUM_FILES)
    assert all(each.num_files == NUM_FILES for each in outcomes.values())
    faults = {name: each.faults for name, each in outcomes.items() if each.faults}
    assert not faults, f"{faults}\n{table(outcomes)}"
    # An entropy coder has no redundancy to know a forged payload by; most do not end as they must.
    images = [each for name, each in outcomes.items() if name.startswith("image file")]
    assert sum(each.counts["data"] for each in images) < 0.15 * NUM_FILES * len(images)
