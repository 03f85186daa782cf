"""Shares of the time in which the stages were at work."""

from __future__ import annotations

import time

import pytest
import torch

from extract.features.busy_times import BusyTimes, DeviceTime
from tests.support.devices import DEVICES


def test_a_share_is_of_all_the_threads_of_a_stage_and_of_those_alone_that_worked() -> None:
    busy = BusyTimes()
    busy.num_threads = {"decode": 4}
    busy.add("write", 1.0)
    busy.add("decode", 6.0)
    busy.add("decode", 2.0)
    busy.add("copy", 0.0)
    assert busy.shares(4.0) == {"decode": 0.5, "write": 0.25}
    with pytest.raises(ValueError, match="damaged"), busy.measured("backbone"):
        time.sleep(0.01)
        raise ValueError("damaged")
    assert busy.shares(1.0)["backbone"] >= 0.01


@pytest.mark.parametrize("device", DEVICES)
def test_a_devices_time_is_that_of_what_it_was_asked_for(device: str) -> None:
    values = torch.ones(2**20, device=device)
    timed = DeviceTime(torch.device(device))
    for _ in range(10):
        values = values.sin()
    timed.stop()
    assert values.sum().item() > 0
    assert 0 < timed.seconds < 60
