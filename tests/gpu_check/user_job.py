"""The job as a user does it: extract, train all levels, be killed, go on, analyse."""

from __future__ import annotations

import json
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

from configs.config_files import load_config
from tests.gpu_check.commands import Commands
from tests.gpu_check.findings import Findings
from tests.gpu_check.settings import Settings

LAMBDAS = ("0.02", "0.05", "0.15")
NUM_LEVELS = 5
SMALL_LEVELS = [3, 4]
SMALL: dict[str, Any] = {
    "cache": {"levels": SMALL_LEVELS},
    "detector": {"min_size": 96, "max_size": 128},
    "model": {"stages": 2, "n_hidden": 8, "n_channels": 12},
    "training": {"epochs": 1, "init_from": None},
}  # fmt: skip
_AT_ONCE = "2"


def do_job(
    settings: Settings, folder: Path, findings: Findings, *, title: str, sections: dict[str, Any]
) -> None:
    """Do the whole job in a folder, as in `make quickstart`.

    `sections` of a configuration, each in place of that one's, say on which data set.
    """
    quickstart = load_config("quickstart").model_dump(
        mode="json", by_alias=True, exclude_unset=True, exclude={"detector"}
    )
    changed = deepcopy({**quickstart, **sections})
    for name, keys in (SMALL if settings.is_small else {}).items():
        changed.setdefault(name, {}).update(keys)
    (folder / "mine.yaml").write_text(json.dumps(changed), encoding="utf-8")
    num_runs = len(LAMBDAS) * (len(SMALL_LEVELS) if settings.is_small else NUM_LEVELS)
    commands = Commands(folder=folder, findings=findings, device=settings.device, title=title)
    config = ("--config", "mine.yaml", "--features", "features")
    lambdas = [option for value in LAMBDAS for option in ("--lambda", value)]
    train = ("train-level", "--level", "all", *lambdas, *config, "--out")

    commands.run("extract-features", "extract-features", "--split", "train", "--split", "val",
                 *config)  # fmt: skip
    again = commands.run("extract-features of what is there", "extract-features",
                         "--split", "train", "--split", "val", *config)  # fmt: skip
    num_there = again.output.count(" are in features/")
    findings.check(f"{title}: nothing is extracted twice", num_there == 2, again.last_words)

    killed = commands.kill_after(" -> ", *train, "runs")
    finished = killed.output.count(" -> ")
    findings.check(
        f"{title}: train-level, killed in the middle",
        killed.code == -signal.SIGKILL and 0 < finished < num_runs,
        f"exit code {killed.code}, {finished} runs finished, {killed.seconds:.1f} s",
    )
    resumed = commands.run("train-level goes on", *train, "runs")
    findings.check(
        f"{title}: what was finished stays, all runs end",
        resumed.output.count(" -> ") == num_runs
        and resumed.output.count("(finished before)") >= finished,
        resumed.last_words,
    )
    commands.run(f"train-level --jobs {_AT_ONCE}", *train, "runs_at_once", "--jobs", _AT_ONCE)
    commands.run("analyze-levels", "analyze-levels", *config, "--checkpoints", "runs",
                 "--report", "report", "--anchors", "none")  # fmt: skip
    pages = [folder / "report" / name for name in ("index.html", "report.md", "report.json")]
    missing = [page.name for page in pages if not page.is_file()]
    findings.check(f"{title}: the report is there", not missing, ", ".join(missing))
