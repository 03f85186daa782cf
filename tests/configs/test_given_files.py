"""A name in a file leads nowhere but into its folder, and what is no file is not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.given_files import inside, is_file, regular


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "sub/../a.jpg", "./a", "..a", "a/.."])
def test_a_name_in_its_folder_is_that_path(name: str) -> None:
    assert inside(Path("images"), name) == Path("images") / name


def test_an_absolute_name_that_lies_in_the_folder_is_that_path(tmp_path: Path) -> None:
    assert inside(tmp_path, f"{tmp_path}/a.jpg") == tmp_path / "a.jpg"


@pytest.mark.parametrize("name", ["../a.jpg", "sub/../../a", "/etc/passwd", "..", "../images2/a"])
def test_a_name_that_leads_out_of_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="leads out of images"):
        inside(Path("images"), name)


def test_a_pipe_a_device_and_a_link_to_one_are_not_read(tmp_path: Path) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (pipe, link, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="is no file, but a device, a pipe or a socket"):
            regular(path)
    file.write_text("")
    assert [regular(path) for path in (file, tmp_path / "missing")] == [file, tmp_path / "missing"]


def test_no_file_lies_at_a_name_too_long_for_any(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert is_file(tmp_path / "a")
    for name in ("b", "x" * 300, "x/" * 5000):
        assert not is_file(tmp_path / name)
