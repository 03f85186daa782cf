from __future__ import annotations

import json
import pickle
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.errors import ConfigError, PassingError
from data.places.object_store import PART_BYTES, RemoteFolder, is_url
from data.places.slow_answers import SlowAnswers


def test_urls_of_three_kinds_of_stores_are_told_from_folders() -> None:
    assert all(is_url(f"{kind}://bucket/a/b") for kind in ("s3", "gs", "az"))
    assert not any(is_url(place) for place in ("features", "/s3/x", "s3:/b", Path("s3://b/x")))


def test_objects_are_written_read_listed_and_deleted_below_the_url(bucket_url: str) -> None:
    folder = RemoteFolder(f"{bucket_url}/some/place/")
    assert folder.sizes() == {}
    folder.put("a/b", b"0123456789")
    (folder / "a").put("c", memoryview(b"xyz"))
    assert folder.get("a/b") == b"0123456789"
    assert bytes(folder.get_range("a/b", 3, 4)) == b"3456"
    assert [bytes(r) for r in folder.get_ranges("a/b", [7, 0], [2, 3])] == [b"78", b"012"]
    assert folder.sizes() == {"a/b": 10, "a/c": 3}
    assert (folder / "a").sizes() == {"b": 10, "c": 3}
    assert (folder.size("a/c"), folder.size("a")) == (3, None)
    folder.delete(["a/b", "a/never"])
    assert folder.sizes("a") == {"a/c": 3}
    with pytest.raises(FileNotFoundError, match=f"{bucket_url}/some/place/a/b"):
        folder.get("a/b")


def test_file_larger_than_a_part_is_sent_in_parts_and_whole(
    bucket_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * (PART_BYTES // 256) + b"end")
    folder = RemoteFolder(bucket_url)
    folder.put("large", path)
    assert folder.size("large") == PART_BYTES + 3
    assert bytes(folder.get_range("large", PART_BYTES - 2, 5)) == b"\xfe\xffend"


def test_folder_goes_to_another_process_by_its_url(bucket_url: str) -> None:
    folder = RemoteFolder(bucket_url)
    folder.put("x", b"1")
    assert pickle.loads(pickle.dumps(folder)).get("x") == b"1"


def test_missing_bucket_is_one_line(bucket_url: str) -> None:
    with pytest.raises(ConfigError, match=r"s3://never/x/a: there is no such bucket: create it"):
        RemoteFolder("s3://never/x").put("a", b"")
    with pytest.raises(ConfigError, match=r"s3://never/x: there is no such bucket"):
        RemoteFolder("s3://never/x").sizes()


def test_missing_credentials_are_one_line(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match="no credentials were found: set AWS_ACCESS_KEY_ID and"):
        RemoteFolder(bucket_url).get("a")


def test_store_out_of_reach_is_one_line(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.places.object_store.RETRY_TIME_S", 0.3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(PassingError, match=r"did not answer for 0.3 s: check .*AWS_ENDPOINT_URL"):
        RemoteFolder(bucket_url).get("a")


def test_store_that_is_listed_first_and_does_not_answer_is_told_of(
    bucket_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("data.places.object_store.RETRY_TIME_S", 1.0)
    monkeypatch.setattr("data.places.slow_answers.PATIENCE_S", 0.1)
    monkeypatch.setattr("data.places.object_store._SLOW", SlowAnswers())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(PassingError):
        RemoteFolder(bucket_url).folders()
    assert f"{bucket_url}: no answer for" in caplog.text


def test_command_that_waits_for_a_store_stops_when_it_is_told_to(
    bucket_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client holds back signals while it tries: it tries for a short while at a time."""
    monkeypatch.setattr("data.places.object_store._TRY_TIME_S", 0.2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    threading.Timer(1.0, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        RemoteFolder(bucket_url).sizes()


def test_credentials_that_were_found_once_are_waited_for_and_those_that_never_were_are_not(
    bucket_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = RemoteFolder(bucket_url), []

    def head(*_: object) -> dict[str, str]:
        asked.append(time.monotonic())
        if len(asked) % 3:
            raise PermissionError("token request: 169.254.169.254 did not answer")
        return {"e_tag": "x"}

    monkeypatch.setattr(folder._client, "head", head)
    with pytest.raises(ConfigError, match="no credentials were found"):
        folder.version("a")
    assert len(asked) == 1
    folder.sizes()
    assert folder.version("a") == '"x"'
    assert len(asked) == 3


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of gs:// and az:// on loopback, where nobody listens; the key file of gs."""
    pytest.importorskip("obstore", reason="needs the extra [remote]")
    key_file = tmp_path / "key.json"
    names = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    key_file.write_text(json.dumps({"disable_oauth": True, **names}))
    for name, value in {
        "GOOGLE_SERVICE_ACCOUNT": str(key_file), "GOOGLE_BASE_URL": "http://127.0.0.1:9",
        "AZURE_STORAGE_ACCOUNT_NAME": "some", "AZURE_STORAGE_ACCOUNT_KEY": "c29tZQ==",
        "AZURE_ENDPOINT": "http://127.0.0.1:9/some",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("data.places.object_store.RETRY_TIME_S", 0.3)
    return key_file


@pytest.mark.parametrize(
    ("kind", "variable"), [("gs", "GOOGLE_BASE_URL"), ("az", "AZURE_ENDPOINT")]
)
def test_server_of_ones_own_is_asked_without_tls_if_it_says_http(
    elsewhere: Path, kind: str, variable: str
) -> None:
    with pytest.raises(PassingError, match=rf"did not answer for 0.3 s: check .*{variable}"):
        RemoteFolder(f"{kind}://bucket/x").get("a")


def test_server_that_cannot_be_asked_is_not_said_to_be_away(elsewhere: Path) -> None:
    said = json.loads(elsewhere.read_text()) | {"gcs_base_url": "http://127.0.0.1:9"}
    elsewhere.write_text(json.dumps(said))
    with pytest.MonkeyPatch.context() as patched:
        for name in ("GOOGLE_BASE_URL", "AZURE_ENDPOINT"):
            patched.delenv(name)
        with pytest.raises(ConfigError, match=r"names no server .*set GOOGLE_ALLOW_HTTP=true$"):
            RemoteFolder("gs://bucket/x").get("a")


def test_key_that_is_none_is_one_line(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "x")
    with pytest.raises(ConfigError, match=r"with these credentials: set AZURE_STORAGE_ACCOUNT_NA"):
        RemoteFolder("az://bucket/x").get("a")


def test_tag_is_the_same_whether_written_listed_or_asked_for(elsewhere: Path) -> None:
    folder = RemoteFolder("az://bucket/x")
    folder._client = SimpleNamespace(  # type: ignore[assignment]  # as Azure answers
        put=lambda *_, **__: {"e_tag": '"0x8D"'},
        head=lambda *_: {"e_tag": '"0x8D"'},
        list=lambda *_: SimpleNamespace(
            collect=lambda: [{"path": "a", "size": 1, "e_tag": "0x8D"}]
        ),
    )
    tags = (folder.put("a", b"1"), folder.version("a"), folder.versions()["a"][1])
    assert tags == ('"0x8D"',) * 3  # as S3 answers, and copies made of it have noted


def test_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"pip install 'fpn-feature-codecs\[remote\]'"):
        RemoteFolder("s3://bucket/x")
