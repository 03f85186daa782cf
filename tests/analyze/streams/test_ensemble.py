"""ensemble.yaml: what is written is read again, and what is wrong is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    DroppedLevel,
    Ensemble,
    read_ensemble,
    write_ensemble,
)
from configs.errors import ConfigError
from tests.analyze.streams.conftest import Sent


def test_ensemble_that_is_written_is_read_again_from_any_folder(sent: Sent, tmp_path: Path) -> None:
    ensemble = Ensemble(
        {
            0: CodedLevel(run=sent.runs[0], model_sha256="0" * 64, lmbda=0.03),
            1: DroppedLevel(),
            2: DerivedLevel(source=1),
        }
    )
    write_ensemble(tmp_path / "ensemble.yaml", ensemble)
    found = read_ensemble(tmp_path / "ensemble.yaml").levels
    assert found[0].run.resolve() == sent.runs[0].resolve()
    assert found | {0: ensemble.levels[0]} == ensemble.levels


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected `levels:`"),
        ("levels: {x: dropped}", "'x' is no level"),
        ("levels: {\u00b2: dropped}", "is no level"),
        ("levels: {0: dropped, '0': dropped}", "is no level, or one twice"),
        (f"levels: {{0: {{run: a, model_sha256: {'x' * 64}, lambda: 1}}}}", "level 0: expected"),
        (f"levels: {{0: {{run: a, model_sha256: {'a' * 64}, lambda: .nan}}}}", "level 0: expected"),
        (
            f'levels: {{0: {{run: "\\0", model_sha256: {"a" * 64}, lambda: 1}}}}',
            "level 0: expected",
        ),
        ("levels: {0: lost}", "level 0: expected `dropped`"),
        ("levels: {0: {run: a}}", "level 0: expected `dropped`"),
        ("levels: {0: {derived_from: 1}, 1: dropped}", "level 1 is no finer one"),
    ],
)
def test_wrong_ensemble_is_a_config_error_that_names_the_file(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "ensemble.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"ensemble.yaml: .*{problem}"):
        read_ensemble(path)


def test_run_whose_folder_is_no_utf_8_stands_in_an_ensemble(tmp_path: Path) -> None:
    run = tmp_path / "run\udcff"
    coded = CodedLevel(run=run, model_sha256="a" * 64, lmbda=0.1)
    write_ensemble(tmp_path / "ensemble.yaml", Ensemble({0: coded}))
    found = read_ensemble(tmp_path / "ensemble.yaml").levels[0]
    assert isinstance(found, CodedLevel)
    assert found.run == run
