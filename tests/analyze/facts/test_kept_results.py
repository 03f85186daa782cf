"""Results that are kept between analyses."""

from __future__ import annotations

import errno
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xxhash

from analyze.facts.kept_results import Kept

KEY = {"method": "rate 1", "model": "ab12", "images": 3}


def test_kept_result_comes_back_as_it_was(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    assert kept.get(KEY) is None
    kept.put(KEY, {"mse": 0.25, "name": "one"}, {"bits": np.arange(5, dtype=np.float32)})
    result = Kept(tmp_path / "kept").get(dict(reversed(KEY.items())))
    assert result is not None
    assert result.facts == {"mse": 0.25, "name": "one"}
    assert result.arrays["bits"].dtype == np.float32
    assert result.arrays["bits"].tolist() == [0, 1, 2, 3, 4]


def test_any_difference_in_the_key_is_another_result(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.put(KEY, {}, {})
    for name, value in (("method", "rate 2"), ("model", "ab13"), ("images", 4), ("more", None)):
        assert kept.get({**KEY, name: value}) is None


def test_damaged_result_is_measured_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(tmp_path)
    kept.put(KEY, {"mse": 0.25}, {"bits": np.arange(1000)})
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    with caplog.at_level(logging.WARNING):
        for damaged in (whole[:100], b"", whole.replace(b"PK", b"XX")):
            file.write_bytes(damaged)
            assert kept.get(KEY) is None
    assert "measuring again" in caplog.text
    kept.put(KEY, {"mse": 0.5}, {})
    result = kept.get(KEY)
    assert result is not None
    assert result.facts == {"mse": 0.5}


def test_result_with_any_byte_changed_is_none(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.put(KEY, {"mse": 0.25}, {"bits": np.arange(30)})
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert kept.get(KEY) is None


def test_archive_that_is_none_but_has_its_checksum_is_measured_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.put(KEY, {"mse": 0.25}, {"bits": np.arange(30)})
    (file,) = tmp_path.iterdir()
    body = file.read_bytes()[:-16]
    for forged in (
        b"no archive", body[4:], body.replace(b"PK\x03\x04", b"PK\x03\x05", 1),
        body.replace(b"\x08\x00", b"\x63\x00"), body[:90] + b"\xff" * 9 + body[99:],
    ):  # fmt: skip
        file.write_bytes(forged + xxhash.xxh3_128_digest(forged))
        assert kept.get(KEY) is None


def test_folder_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    kept = Kept(tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        kept.put(KEY, {}, {})
    assert "result is not kept" in caplog.text


def test_without_a_folder_nothing_is_kept() -> None:
    kept = Kept(None)
    kept.put(KEY, {}, {})
    assert kept.get(KEY) is None


def test_two_analyses_keep_one_result_at_once_and_nothing_is_torn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def keep(number: int) -> bool:
        kept = Kept(tmp_path)
        kept.put(KEY, {"mse": 0.25}, {"bits": np.arange(2000)})
        return kept.get(KEY) is not None

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(keep, range(60)))
    assert not caplog.messages
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_analysis_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "0f.npz.0123456789ab.part").write_bytes(b"half of a res")
    Kept(tmp_path)
    assert not list(tmp_path.iterdir())


def test_result_that_cannot_be_read_for_now_is_measured_again_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path)
    kept.put(KEY, {"mse": 0.25}, {})

    def busy(_: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as refusing:
        refusing.setattr(Path, "read_bytes", busy)
        assert kept.get(KEY) is None
    assert "Too many open files" in caplog.text
    result = kept.get(KEY)
    assert result is not None and result.facts == {"mse": 0.25}
