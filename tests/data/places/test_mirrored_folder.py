"""A copy follows what is there, what changes here is sent, and nothing unsent is ever lost."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError, MachineError, PassingError
from data.places import mirrored_folder
from data.places.local_copies import LocalCopies
from data.places.mirrored_folder import MirroredFolder
from data.places.object_store import RemoteFolder
from tests.support.failing_disk import MOMENTS, Moment, meets, temporary

Mirrors = Callable[..., MirroredFolder]


@pytest.fixture
def mirror_on(bucket_url: str, tmp_path: Path) -> Mirrors:
    """What makes a mirror of the bucket's folder `x` on a machine of some name."""

    def mirror(machine: str, **named: Any) -> MirroredFolder:
        return LocalCopies(tmp_path / machine).mirror(f"{bucket_url}/x", **named)

    return mirror


def write(mirror: MirroredFolder, name: str, text: str) -> Path:
    path = mirror.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def text_of(mirror: MirroredFolder, name: str) -> str:
    return (mirror.path / name).read_text()


def count_puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of what is sent from now on, in their order."""
    sent: list[str] = []
    put = RemoteFolder.put

    def noting(folder: RemoteFolder, name: str, content: Any) -> str:
        sent.append(name)
        return put(folder, name, content)

    monkeypatch.setattr(RemoteFolder, "put", noting)
    return sent


def test_of_files_that_never_change_what_is_here_is_as_good_as_what_is_there(
    mirror_on: Mirrors,
) -> None:
    here, there = mirror_on("a"), mirror_on("b")
    for mirror in (here, there):
        write(mirror, "both", f"found in {mirror.path}")
    write(there, "other", "1")
    there.push()
    here.fetch_lacking()
    assert text_of(here, "both") == f"found in {here.path}"
    assert text_of(here, "other") == "1"
    with pytest.raises(ConfigError, match="has changed since it was fetched or sent"):
        here.fetch()


def test_copy_gives_way_to_news_if_it_holds_what_was_not_sent(mirror_on: Mirrors) -> None:
    here, there = mirror_on("a"), mirror_on("b")
    write(here, "run/last", "1")
    write(here, "run2/last", "1")
    here.push()
    there.fetch()
    write(here, "run/last", "unsent")
    here.give_way("run")
    assert text_of(here, "run/last") == "unsent"
    write(there, "run/last", "news")
    write(there, "run2/last", "news")
    there.push()
    for name in ("run", "run2"):
        here.give_way(name)
    here.fetch()
    assert (text_of(here, "run/last"), text_of(here, "run2/last")) == ("news", "news")


def test_what_one_machine_pushes_another_fetches_and_changes(mirror_on: Mirrors) -> None:
    here, there = mirror_on("a"), mirror_on("b")
    write(here, "run/best", "1")
    write(here, "run/empty", "")
    here.push()
    assert there.fetch() == {"run/best", "run/empty"}
    assert (text_of(there, "run/best"), text_of(there, "run/empty")) == ("1", "")
    write(there, "run/best", "22")
    there.push()
    here.fetch()
    assert text_of(here, "run/best") == "22"


def test_only_what_is_wanted_is_fetched(mirror_on: Mirrors) -> None:
    here, there = mirror_on("a"), mirror_on("b")
    for name in ("one/best", "one/last", "two/best"):
        write(here, name, name)
    here.push()
    assert there.fetch({"best"}) == {"one/best", "two/best"}
    assert not (there.path / "one/last").exists()
    assert there.fetch(below="one") == {"one/best", "one/last"}


def test_what_has_not_changed_is_sent_and_fetched_once(
    mirror_on: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = mirror_on("a")
    sent = count_puts(monkeypatch)
    write(here, "one", "1")
    write(here, "two", "2")
    here.push()
    write(here, "two", "22")
    again = mirror_on("a")  # as the next command makes it
    again.push()
    assert sorted(sent) == ["one", "two", "two"]
    monkeypatch.setattr(RemoteFolder, "get", None)
    again.fetch()
    assert text_of(again, "two") == "22"


def test_what_was_not_sent_stays_when_the_rest_is_fetched(mirror_on: Mirrors) -> None:
    here, there = mirror_on("a"), mirror_on("b")
    write(here, "one", "1")
    here.push()
    there.fetch()
    write(there, "two", "2")
    there.push()
    write(here, "one", "changed")
    here.fetch()
    assert (text_of(here, "one"), text_of(here, "two")) == ("changed", "2")
    here.push()
    there.fetch()
    assert text_of(there, "one") == "changed"


def test_file_that_has_changed_in_both_places_is_told_and_stays(mirror_on: Mirrors) -> None:
    here, there = mirror_on("a"), mirror_on("b")
    path = write(here, "one", "1")
    here.push()
    there.fetch()
    write(there, "one", "there")
    there.push()
    path.write_text("here now")
    with pytest.raises(ConfigError, match=f"{path}: has changed since .*, and so has s3://"):
        here.fetch()
    assert path.read_text() == "here now"
    path.write_text("there")  # the same after all
    here.fetch()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_fetching_that_meets_trouble_is_one_line_and_the_file_before_stays(
    mirror_on: Mirrors, number: int
) -> None:
    here, there = mirror_on("a"), mirror_on("b")
    for text in ("1", "22"):
        write(here, "one", text)
        here.push()
        there.fetch()
    write(here, "one", "333")
    here.push()
    trouble: list[tuple[str, Moment]] = [("one.*.part", moment) for moment in MOMENTS]
    for pattern, moment in [("fetching.lock", "open"), *trouble]:
        line = meets(pattern, moment, there.fetch, MachineError, number=number)
        assert line.endswith("make room, or choose another --local-cache")
        assert text_of(there, "one") == "22"
        assert temporary(there.path) == []
    there.fetch()
    assert text_of(there, "one") == "333"


def test_order_of_writing_is_the_order_in_which_files_appear_there(
    mirror_on: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = mirror_on("a", in_order=("best", "last", "record"), at_end=("index",))
    sent = count_puts(monkeypatch)
    for name in ("run/record", "run/last", "index", "run/best", "run/zz"):
        write(here, name, "1")
    here.push(is_done=False)
    assert sent == ["run/zz", "run/best", "run/last", "run/record"]
    here.push()
    assert sent[4:] == ["index"]


def test_what_is_written_while_files_are_sent_never_overtakes_what_comes_before_it(
    mirror_on: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = mirror_on("a", in_order=("best", "last")), mirror_on("b")

    def save(number: int) -> None:
        for name in ("best", "last"):
            write(here, "fresh", f"{number}").replace(here.path / name)

    put = RemoteFolder.put

    def saving_meanwhile(folder: RemoteFolder, name: str, content: Any) -> str:
        save(2)
        return put(folder, name, content)

    save(1)
    write(here, "other", "")
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "put", saving_meanwhile)
        here.push()
    there.fetch()
    assert text_of(there, "best") >= text_of(there, "last") == "1"
    here.push()
    there.fetch()
    assert (text_of(there, "best"), text_of(there, "last")) == ("2", "2")


def test_passing_files_of_a_machine_stay_on_it(mirror_on: Mirrors) -> None:
    here = mirror_on("a", left_out=("previous",))
    for name in ("x.lock", "x.0123456789ab.part", "x.new", ".decoded-1/x", "run/previous", "x"):
        write(here, name, "1")
    here.push()
    assert here.remote.sizes() == {"x": 1}


def test_names_that_lead_elsewhere_are_passed_over(
    mirror_on: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = mirror_on("a")
    names = ["/etc/x", "../x", "a/../../x", "a//x", ".ssh/x", "nul\0x"]
    monkeypatch.setattr(RemoteFolder, "versions", lambda *_: dict.fromkeys(names, (1, "1")))
    assert here.fetch() == set()


def test_what_changes_is_sent_while_the_work_goes_on(
    mirror_on: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrored_folder, "EVERY_S", 0.01)
    here = mirror_on("a", at_end=("index",))
    with here.sending():
        write(here, "index", "")
        write(here, "one", "1")
        until = time.monotonic() + 20
        while here.remote.size("one") is None and time.monotonic() < until:
            time.sleep(0.01)
        assert here.remote.sizes() == {"one": 1}
        write(here, "two", "2")
    assert here.remote.sizes() == {"one": 1, "two": 1, "index": 0}
    assert not [thread for thread in threading.enumerate() if thread.name == "sending"]


def test_error_of_the_work_comes_after_what_it_had_is_sent(mirror_on: Mirrors) -> None:
    here = mirror_on("a", at_end=("index",))
    with pytest.raises(ValueError, match="of the work"), here.sending():
        write(here, "one", "1")
        write(here, "index", "")
        raise ValueError("of the work")
    assert here.remote.sizes() == {"one": 1}


def test_store_that_takes_nothing_is_an_error_at_the_end_that_names_the_file_which_stays(
    mirror_on: Mirrors, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("data.places.object_store.RETRY_TIME_S", 0.2)
    monkeypatch.setattr(mirrored_folder, "EVERY_S", 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    here = mirror_on("a")
    with pytest.raises(MachineError) as told, here.sending():
        path = write(here, "one", "1")
        until = time.monotonic() + 20
        while not caplog.records and time.monotonic() < until:
            time.sleep(0.01)
        assert "trying again" in caplog.text
    assert str(told.value).startswith(f"{path}: could not be sent, and stays")
    assert path.read_text() == "1"


def test_what_is_removed_here_is_removed_there_if_it_came_from_there(mirror_on: Mirrors) -> None:
    here, there = mirror_on("a"), mirror_on("b")
    write(here, "old", "1")
    write(here, "kept", "1")
    here.push()
    there.fetch()
    (there.path / "old").unlink()
    here.remote.put("of another", b"1")
    there.remove_gone()
    assert here.remote.sizes() == {"kept": 1, "of another": 1}


def test_file_whose_sending_breaks_off_is_sent_from_its_beginning_again(
    mirror_on: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore
    from obstore.exceptions import GenericError

    here, put, broken = mirror_on("a"), obstore.put, []

    def breaking_off(store: Any, name: str, content: Any, **more: Any) -> Any:
        done = put(store, name, content, **more)
        if not broken:
            broken.append(name)
            raise GenericError("400: IncompleteBody")
        return done

    monkeypatch.setattr(obstore, "put", breaking_off)
    write(here, "one", "whole")
    here.push()
    assert broken == ["one"]
    assert here.remote.get("one") == b"whole"


def test_object_that_goes_away_while_it_is_fetched_is_not_blamed_on_the_disk(
    mirror_on: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = mirror_on("one"), mirror_on("other")
    write(one, "file", "content")
    one.push()
    get = RemoteFolder.get

    def too_late(folder: RemoteFolder, name: str) -> bytes:
        folder.delete([name])
        return get(folder, name)

    monkeypatch.setattr(RemoteFolder, "get", too_late)
    with pytest.raises(PassingError, match=r"^s3://\S+/x/file: went away while it was fetched"):
        other.fetch()


def test_file_that_goes_away_while_it_is_fetched_is_not_blamed_on_a_lack_of_room(
    mirror_on: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = mirror_on("one"), mirror_on("other")
    write(one, "file", "content")
    one.push()

    def gone(path: Path, content: bytes) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(mirrored_folder, "write_atomically", gone)
    with pytest.raises(MachineError, match="file: went away while it was in use: run the same"):
        other.fetch()
