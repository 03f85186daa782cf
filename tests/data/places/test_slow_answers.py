"""A store that does not answer is told of long before it is given up."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from data.places import slow_answers
from data.places.slow_answers import SlowAnswers


def eventually(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_answers, "PATIENCE_S", 0.1)


def test_what_is_waited_for_is_told_and_what_was_answered_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = SlowAnswers()
    for _ in range(3):
        with watch.watched("s3://bucket/soon"):
            pass
    with watch.watched("s3://bucket/late"):
        assert eventually(lambda: "s3://bucket/late: no answer for" in caplog.text)
    caplog.clear()
    time.sleep(0.5)
    assert "soon" not in caplog.text
    assert "no answer" not in caplog.text


def test_what_is_asked_within_another_request_does_not_end_the_watch_over_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = SlowAnswers()
    with watch.watched("s3://bucket/first"):
        with watch.watched("s3://bucket"):  # as the first request opens the store
            pass
        assert eventually(lambda: "s3://bucket/first: no answer for" in caplog.text)


def test_many_that_ask_first_at_once_are_watched_by_one_thread() -> None:
    watch, together = SlowAnswers(), threading.Barrier(8)

    def ask() -> None:
        together.wait()
        with watch.watched("s3://bucket/first"):
            together.wait()

    before = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(ask) for _ in range(8)]:
            each.result()
    assert threading.active_count() == before + 1


def told_in_a_fork(watch: SlowAnswers) -> None:
    told: list[str] = []
    slow_answers._LOG.warning = lambda *given: told.append(given[1])  # type: ignore[method-assign]
    with watch.watched("s3://bucket/own"):
        found = eventually(lambda: bool(told))
    raise SystemExit(0 if found and set(told) == {"s3://bucket/own"} else 1)


def test_a_fork_watches_what_it_asks_itself_and_nothing_of_its_parents() -> None:
    watch = SlowAnswers()
    with watch.watched("s3://bucket/of the parent"):
        process = multiprocessing.get_context("fork").Process(target=told_in_a_fork, args=(watch,))
        process.start()
        process.join(30)
    assert process.exitcode == 0
