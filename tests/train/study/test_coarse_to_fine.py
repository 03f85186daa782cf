"""All levels from the coarsest on, each beside the run of the one before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from configs.config_files import load_config
from tests.support.context_chain import linked_features, other_weights
from tests.support.extraction import TinyCache
from train.cli import train_level
from train.loop.job import Job
from train.runs.checkpoint import BEST_NAME, load_codec
from train.runs.run_record import RunRecord
from train.study import chain
from train.study.chain import chains_of


@pytest.fixture(scope="module")
def features(zarr_cache: TinyCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linked_features(zarr_cache, tmp_path_factory.mktemp("coarse_to_fine") / "features")


@pytest.fixture(autouse=True)
def _a_dry_run_tries_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.forecast.trial._MOST_STEPS", 1)


def train(features: Path, cache: TinyCache, out: Path, *more: str, level: str = "all") -> Result:
    sizes = ("model.n_hidden=4", "model.n_channels=6", "validation.num_samples=0")
    return CliRunner().invoke(
        train_level,
        [
            "--level", level, "--config", str(cache.config), "--features", str(features),
            "--out", str(out), "--split", "train", "--val-split", "train", "--device", "cpu",
            "--epochs", "1", *(part for each in sizes for part in ("--set", each)), *more,
        ],
    )  # fmt: skip


def run_of(out: Path, level: int, lmbda: float) -> Path:
    runs = out.glob(f"*_level_{level}/run_*_lambda_{lmbda:.2e}*")
    (run,) = (run for run in runs if (run / BEST_NAME).is_file())
    return run


def test_each_level_is_trained_beside_the_one_before_and_the_same_command_goes_on(
    features: Path, zarr_cache: TinyCache, tmp_path: Path
) -> None:
    options = ("--coarse-to-fine", "--lambda", "0.01", "--lambda", "0.1")
    done = train(features, zarr_cache, tmp_path, *options)
    assert done.exit_code == 0, done.output
    assert "level 4: not trained, as level 3 subsampled is exactly it" in done.output
    for lmbda in (0.01, 0.1):
        context: tuple[str, ...] = ()
        for level in (3, 2, 1, 0):
            _, info = load_codec(run_of(tmp_path, level, lmbda) / BEST_NAME)
            assert (info.level, info.context) == (level, context)
            assert context == () or info.config.model.context is not None
            context = (info.model_sha256,)
        assert info.config.model.context is not None
        assert info.config.model.context.trail_channels == 18
    foretold = train(features, zarr_cache, tmp_path, *options, "--dry-run")
    assert "\ndecoded, all: 0.00 MB, " in foretold.output, "it is there"
    assert "\nabout 0 s at most (computing), for 0 tasks" in foretold.output
    anew = train(features, zarr_cache, tmp_path, *options, "--dry-run", "--resume", "never")
    assert "\ndecoded, all: 2.00 MB, " in anew.output
    again = train(features, zarr_cache, tmp_path, *options)
    assert again.exit_code == 0, again.output
    assert again.output.count("(finished before)") == 8
    changed = run_of(tmp_path, 1, 0.1)
    sha256 = other_weights(changed)
    third = train(features, zarr_cache, tmp_path, "--coarse-to-fine", "--lambda", "0.1")
    assert third.exit_code == 0, third.output
    assert third.output.count("(finished before)") == 3, "only what sees the changed run is new"
    newest = max((tmp_path / changed.parent.name.replace("_level_1", "_level_0")).iterdir())
    assert RunRecord.load(newest).context == [{"run": str(changed), "model_sha256": sha256}]


def test_a_level_that_fails_stops_the_finer_ones_of_its_lambda_alone(
    features: Path, zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def train_or_fail(job: Job, **more: object) -> Path:
        begun.append((job.config.training.lmbda, job.level))
        if job.level == 2 and job.config.training.lmbda == 0.01:
            raise chain.UserError("a reason")
        return tmp_path / f"{job.config.training.lmbda}_{job.level}"

    monkeypatch.setattr(chain, "train_level", train_or_fail)
    monkeypatch.setattr(Job, "beside", lambda job, run: job)
    failed = train(features, zarr_cache, tmp_path, "--coarse-to-fine", "--lambda", "0.01",
                   "--lambda", "0.1")  # fmt: skip
    assert failed.exit_code == 1
    assert begun == [(0.01, 3), (0.01, 2), (0.1, 3), (0.1, 2), (0.1, 1), (0.1, 0)]
    last = failed.output.strip().splitlines()[-1]
    assert "level 2, lambda 0.01: a reason" in last
    for level in (1, 0):
        assert (
            f"level {level}, lambda 0.01: not trained, as its codec sees level {level + 1} as"
            in last
        )


def test_levels_of_other_lambdas_and_models_are_in_the_chain_of_all(
    features: Path, zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def trained(job: Job, **more: object) -> Path:
        begun.append((job.level, job.config.training.lmbda))
        return tmp_path

    beside = []
    monkeypatch.setattr(chain, "train_level", trained)
    monkeypatch.setattr(Job, "beside", lambda job, run: (beside.append(job.level), job)[1])
    lambdas = (
        "training.lambda=0.1",
        "levels.0.training.lambda=0.5",
        "levels.3.training.lambda=0.2",
    )
    own = [part for each in lambdas for part in ("--set", each)]
    done = train(features, zarr_cache, tmp_path, "--coarse-to-fine", *own)
    assert done.exit_code == 0, done.output
    assert begun == [(3, 0.2), (2, 0.1), (1, 0.1), (0, 0.5)] and beside == [2, 1, 0]


def test_chains_are_of_one_lambda_and_from_the_coarsest_level_on(
    features: Path, zarr_cache: TinyCache
) -> None:
    config = load_config(zarr_cache.config)
    jobs = [
        Job(
            train_cache=features / "train", val_cache=features / "val", level=level, device="cuda",
            config=config.model_copy(
                update={"training": config.training.model_copy(update={"lmbda": lmbda})}
            ),
            chain=lmbda,
        )
        for level in (0, 1, 2)
        for lmbda in (0.1, 0.01)
    ]  # fmt: skip
    cut = [[(job.config.training.lmbda, job.level) for job in each] for each in chains_of(jobs)]
    assert cut == [[(0.1, 2), (0.1, 1), (0.1, 0)], [(0.01, 2), (0.01, 1), (0.01, 0)]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--level", "2"), "trains all levels: use it with --level all"),
        (
            ("--warm-start",),
            "leave out --warm-start (training.warm_start), or train level by level",
        ),
        (("--init-from", "somewhere"), "leave out --init-from"),
        (("--context", "somewhere"), "--context: is for one level: name that"),
        (("--set", "training.context=[somewhere]"), "leave out --context (training.context)"),
        (
            ("--set", "levels.1.training.init_from=somewhere"),
            "leave out levels.1.training.init_from, or train level by level",
        ),
        (
            ("--set", "levels.0.training.context=[somewhere]"),
            "leave out levels.0.training.context,",
        ),
    ],
)
def test_what_does_not_go_with_coarse_to_fine_is_refused(
    features: Path, zarr_cache: TinyCache, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    refused = train(features, zarr_cache, tmp_path, "--coarse-to-fine", *options)
    assert refused.exit_code == 1 and told in refused.output
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_is_decoded_and_writes_nothing(
    features: Path, zarr_cache: TinyCache, tmp_path: Path
) -> None:
    before = sorted(features.rglob("*"))
    shown = train(features, zarr_cache, tmp_path, "--coarse-to-fine", "--dry-run")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert [line.split(", ")[1] for line in lines[-4:-1]] == ["level 3", "level 2", "level 1"]
    assert re.fullmatch(r"decoded, all: 1\.00 MB, \d+\.\d\d GB are free", lines[-1])
    seeds = train(features, zarr_cache, tmp_path, "--coarse-to-fine", "--dry-run", "--seeds", "2")
    assert "\ndecoded, level 3, lambda 0.001, seed 1, train: " in seeds.output
    assert "\ndecoded, all: 2.00 MB, " in seeds.output, "each seed decodes for itself"
    flying = train(features, zarr_cache, tmp_path, "--coarse-to-fine", "--dry-run",
                   "--context-on-the-fly")  # fmt: skip
    assert flying.exit_code == 0 and "decoded" not in flying.output, "nothing is stored"
    assert not list(tmp_path.iterdir()) and sorted(features.rglob("*")) == before
