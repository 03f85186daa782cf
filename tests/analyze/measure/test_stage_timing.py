"""What a dry run prints: stages, their sum, and whether there is room."""

from __future__ import annotations

from dataclasses import replace

from analyze.measure.stage_timing import Forecast, Stage

FORECAST = Forecast(
    stages=(
        Stage(name="coding, level 0", times=3, seconds_each=0.25),
        Stage(name="heads, 24 combinations", times=1, seconds_each=0.5),
    ),
    num_images=5000,
    scratch_bytes=16 * 10**9,
    free_bytes=17 * 10**9,
    memory_bytes=2 * 10**9,
    gpu_bytes=None,
)


def test_table_has_each_stage_and_the_sum() -> None:
    assert FORECAST.seconds == (3 * 0.25 + 0.5) * 5000
    assert FORECAST.table().splitlines() == [
        "stage                   images times   ms each    total",
        "coding, level 0           5000     3    250.00   1.04 h",
        "heads, 24 combinations    5000     1    500.00 2500.0 s",
        "about 1.74 h, and what anchors, mAP and the report take",
        "scratch space: 16.000 GB of 17.0 GB free: fits",
        "memory: 2.00 GB, as measured",
    ]


def test_stages_of_the_split_that_chooses_have_its_images_and_its_name() -> None:
    both = FORECAST.with_choosing(replace(FORECAST, num_images=10, scratch_bytes=10**9), "train")
    assert both.seconds == (3 * 0.25 + 0.5) * 5010
    assert both.scratch_bytes == 17 * 10**9
    lines = both.table().splitlines()
    assert lines[1].split()[:4] == ["coding,", "level", "0", "5000"]
    assert lines[3].split()[:5] == ["coding,", "level", "0,", "train", "10"]


def test_table_says_what_to_do_where_there_is_no_room_or_nothing_to_do() -> None:
    full = Forecast(
        stages=(), num_images=3, scratch_bytes=2, free_bytes=1, memory_bytes=10**9,
        gpu_bytes=3 * 10**9,
    )  # fmt: skip
    first, *_, room, memory = full.table().splitlines()
    assert first == "all that codecs and heads would compute was kept by an earlier analysis"
    assert room.endswith("does not fit: make room, or name another --report")
    assert memory == "memory: 1.00 GB, 3.00 GB of the GPU, as measured"
