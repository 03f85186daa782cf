from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ConfigError
from data.system.atomic_files import remove_leftovers
from data.system.seen_folders import enter_folder, is_seen, signed


def test_a_folder_is_seen_while_it_is_signed_and_another_one_of_its_content_is_not(
    tmp_path: Path,
) -> None:
    here, like_it = tmp_path / "here", tmp_path / "like it"
    for folder in (here, like_it):
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
    with signed(here) as sign:
        assert is_seen(str(sign))
        assert not is_seen(str(like_it / sign.name))
    assert not is_seen(str(sign))
    assert [path.name for path in here.iterdir()] == ["manifest.json"]


def test_the_sign_of_a_process_that_was_killed_is_removed_with_its_other_leftovers(
    tmp_path: Path,
) -> None:
    with signed(tmp_path):
        remove_leftovers(tmp_path)
        assert not list(tmp_path.iterdir())


def test_a_working_folder_that_a_node_lacks_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(ConfigError, match=f"^--ray: the node .* cannot enter the folder {gone} "):
        enter_folder(str(gone))
