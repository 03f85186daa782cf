"""Copies lie as their URLs say, and options tell URLs from folders."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from configs.errors import ConfigError
from data.places.local_copies import LocalCopies, PlaceType, usual_folder


def test_a_copy_lies_where_its_url_says_and_leads_back_to_it(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path)
    path = copies.path_of("s3://bucket/a/b/")
    assert path == tmp_path / "s3" / "bucket" / "a" / "b"
    assert copies.url_of(path) == copies.shown(path / "x" / "..") == "s3://bucket/a/b"
    for other in (tmp_path, tmp_path / "s3", tmp_path / "copies.sqlite", Path("/elsewhere")):
        assert copies.url_of(other) is None
        assert copies.shown(other) == str(other)


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://bucket/../../x", "s3://bucket//x"])
def test_a_url_that_names_no_folder_of_a_bucket_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no URL of a bucket and names in it"):
        LocalCopies(tmp_path).path_of(url)


def test_copies_lie_in_the_users_cache_unless_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert LocalCopies().folder == usual_folder() == tmp_path / "fpn-feature-codecs"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert usual_folder() == tmp_path / ".cache" / "fpn-feature-codecs"


def test_an_option_takes_a_folder_or_a_url_and_nothing_else() -> None:
    place = PlaceType(path_type=Path)
    assert place.convert("s3://bucket/x/", None, None) == "s3://bucket/x"
    assert place.convert("runs/x", None, None) == Path("runs/x")
    with pytest.raises(click.BadParameter, match="use s3://, gs:// or az://, or a folder's path"):
        place.convert("http://host/x", None, None)
