"""Commands on caches at a URL: what they write and what they make of it are as with folders."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from data.places.object_store import RemoteFolder
from extract.cli import extract_features
from tests.support.extraction import TinyCache
from tests.support.remote_caches import send_caches
from tests.support.resumed_runs import must_equal, only_run
from tests.support.tiny_study import TinyStudy
from train.cli import train_level


def test_extraction_to_a_url_leaves_the_files_of_one_to_a_folder(
    zarr_cache: TinyCache, bucket_url: str, tmp_path: Path
) -> None:
    arguments = [
        "--split", "train", "--config", str(zarr_cache.config), "--device", "cpu",
        "--features", bucket_url, "--local-cache", str(tmp_path), "--log-level", "warning",
    ]  # fmt: skip
    first = CliRunner().invoke(extract_features, arguments)
    assert first.exit_code == 0, first.output
    remote = RemoteFolder(f"{bucket_url}/train")
    here = {
        path.relative_to(zarr_cache.folder).as_posix(): path.read_bytes()
        for path in zarr_cache.folder.rglob("*")
        if path.is_file() and path.name != "commits.jsonl"
    }
    assert here == {
        name: remote.get(name) for name in remote.sizes() if not name.startswith("commits/")
    }
    again = CliRunner().invoke(extract_features, arguments)
    assert "train: all 8 images are in" in again.output


def test_level_trains_from_a_url_as_from_a_folder(
    study: TinyStudy, bucket_url: str, tmp_path: Path
) -> None:
    send_caches(study.root, bucket_url, tmp_path / "sender")
    for features, out in ((str(study.root), "local"), (bucket_url, "remote")):
        result = CliRunner().invoke(train_level, [
            "--level", "4", "--config", str(study.config_file), "--log-level", "warning",
            "--features", features, "--local-cache", str(tmp_path / "there"),
            "--out", str(tmp_path / out),
        ])  # fmt: skip
        assert result.exit_code == 0, result.output
    must_equal(only_run(tmp_path / "remote"), only_run(tmp_path / "local"))


def test_url_without_its_bucket_is_one_line(bucket_url: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(train_level, [
        "--level", "0", "--features", "s3://never/x", "--local-cache", str(tmp_path),
    ])  # fmt: skip
    assert result.exit_code == 1
    assert "Error: s3://never/x: there is no such bucket" in result.output
