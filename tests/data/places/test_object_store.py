from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from configs.errors import ConfigError, PassingError
from data.places.object_store import PART_BYTES, RemoteFolder, is_url


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


def test_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"pip install 'fpn-feature-codecs\[remote\]'"):
        RemoteFolder("s3://bucket/x")
