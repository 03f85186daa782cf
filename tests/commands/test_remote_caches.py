"""Commands on caches at a URL: what they write and what they make of it are as with folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from data.places.object_store import RemoteFolder
from extract.cli import extract_features
from tests.support.analysis import analyse, rows_of
from tests.support.coded_study import make_run
from tests.support.extraction import TinyCache
from tests.support.remote_caches import send_caches
from tests.support.resumed_runs import must_equal, only_run
from tests.support.tiny_study import TinyStudy
from train.cli import train_level
from train.runs.run_folder import save_config


@pytest.mark.parametrize(
    ("container", "shard_name"), [("zarr", "c.0.0.0.0"), ("hdf5", "shard-00000.h5")]
)
def test_extraction_to_a_url_leaves_the_files_of_one_to_a_folder_and_brings_back_what_is_gone(
    request: pytest.FixtureRequest, bucket_url: str, tmp_path: Path,
    container: str, shard_name: str,
) -> None:  # fmt: skip
    local: TinyCache = request.getfixturevalue(f"{container}_cache")
    arguments = [
        "--split", "train", "--config", str(local.config), "--device", "cpu",
        "--container", container,
        "--features", bucket_url, "--local-cache", str(tmp_path), "--log-level", "warning",
    ]  # fmt: skip
    first = CliRunner().invoke(extract_features, arguments)
    assert first.exit_code == 0, first.output
    remote = RemoteFolder(f"{bucket_url}/train")
    here = {
        path.relative_to(local.folder).as_posix(): path.read_bytes()
        for path in local.folder.rglob("*")
        if path.is_file() and path.name != "commits.jsonl"
    }

    def there() -> dict[str, bytes]:
        names = [name for name in remote.sizes() if not name.startswith("commits/")]
        return {name: remote.get(name) for name in names}

    assert here == there()
    again = CliRunner().invoke(extract_features, arguments)
    assert f"train: all 8 images are in {bucket_url}/train already" in again.output
    gone = next(name for name in sorted(here) if name.endswith(shard_name))
    remote.delete([gone])
    mended = CliRunner().invoke(extract_features, arguments)
    assert mended.exit_code == 0, mended.output
    assert here == there()


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


def test_analysis_of_a_cache_at_a_url_finds_what_that_of_a_folder_finds(
    study: TinyStudy, undrawn: None, bucket_url: str, tmp_path: Path
) -> None:
    save_config(make_run(tmp_path / "runs" / "of_level_4" / "run_1", study, 4), study.config)
    send_caches(study.root, bucket_url, tmp_path / "sender")
    there = ("--features", bucket_url, "--local-cache", str(tmp_path / "copies"))
    found = []
    for place, more in (("local", ()), ("remote", there)):
        report = tmp_path / place / "report"
        result = analyse(study, tmp_path / "runs", report, "--limit", "1", *more)
        assert result.exit_code == 0, result.output
        rows = rows_of(report)
        found.append([{k: x for k, x in row.items() if not k.endswith("_ms")} for row in rows])
    assert found[0] == found[1] != []


def test_url_without_its_bucket_is_one_line(bucket_url: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(train_level, [
        "--level", "0", "--features", "s3://never/x", "--local-cache", str(tmp_path),
    ])  # fmt: skip
    assert result.exit_code == 1
    assert "Error: s3://never/x: there is no such bucket" in result.output


def test_url_of_another_kind_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(train_level, ["--level", "0", "--features", "ftp://there/x"])
    assert result.exit_code == 1
    assert (
        "--features ftp://there/x: use s3://, gs:// or az://, or a folder's path" in result.output
    )
    assert not any(tmp_path.iterdir())


def test_copies_lie_on_no_disk_of_several_machines(
    bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.remote.local_room.is_remote", lambda folder: folder == tmp_path)
    result = CliRunner().invoke(train_level, [
        "--level", "0", "--features", bucket_url, "--local-cache", str(tmp_path),
    ])  # fmt: skip
    assert result.exit_code == 1
    assert f"--local-cache {tmp_path}: is on a network file system" in result.output
