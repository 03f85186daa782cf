"""ensemble.yaml: what is written is read, and mistakes in a hand-written one are one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyze.ensemble import EnsembleLevel, load_ensemble, save_ensemble
from configs.errors import ConfigError

ENSEMBLE = {
    0: EnsembleLevel(run=Path("checkpoints/level_0/run_1"), model_sha256="ab12"),
    1: EnsembleLevel(dropped=True),
    4: EnsembleLevel(derived_from=3),
}


def test_ensemble_comes_back_as_it_was_written(tmp_path: Path) -> None:
    save_ensemble(tmp_path / "ensemble.yaml", ENSEMBLE, note="allocated for 0.1 bits per pixel")
    assert load_ensemble(tmp_path / "ensemble.yaml") == ENSEMBLE
    assert "# allocated for 0.1 bits" in (tmp_path / "ensemble.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("runs: {}", "needs `levels`"),
        ("levels: {}", "needs `levels`"),
        ("levels: {zero: {dropped: true}}", "'zero' is no level"),
        ("levels: {0: {run: a, dropped: true}}", "level 0: needs one of"),
        ("levels: {4: {derived_from: 4}}", "level 4: needs one of"),
        ("levels: {4: {dropped: false}}", "level 4: needs one of"),
    ],
)
def test_mistake_in_the_file_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "ensemble.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"ensemble\.yaml") as error:
        load_ensemble(path)
    assert problem in str(error.value)
