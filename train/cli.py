"""train-level: parse, load, run, print."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from configs.cluster_options import (
    check_ray_options,
    nodes_option,
    ray_tasks_option,
    refuse_nodes_in_earnest,
)
from configs.cores import share_cores
from configs.errors import ConfigError
from configs.log_setup import setup_logging
from configs.options import (
    FeaturesPlace,
    choose_device,
    common_options,
    detection_checkpoint_option,
    features_option,
    num_devices,
    run_command,
    training_splits,
    trust_code_option,
    with_detection_checkpoint,
)
from data.places.local_copies import PlaceType, copies_in
from data.places.object_store import is_url
from train.ending_lines import fail_with, tell_outcome

# What the command works with is imported where it begins to work: neither --help nor wrong usage
# needs any of it.
if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


@click.command(name="train-level")
@click.option(
    "--level", metavar="0..4|all|random|fused",
    help="FPN level to train, all one by one, or one model: on random levels, or of all fused.",
)  # fmt: skip
@training_splits("Split to validate on.")
@click.option(
    "--lambda",
    "lambdas",
    type=click.FloatRange(min=0),
    multiple=True,
    help="Weight of the rate; overrides training.lambda (repeatable).",
)
@click.option(
    "--seeds", "num_seeds", type=click.IntRange(1), default=1, show_default=True,
    help="Runs of each level and lambda: of training.seed and the seeds after it.",
)  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), help="Overrides training.epochs.")
@click.option("--batch-size", type=click.IntRange(1), help="Overrides training.batch_size.")
@click.option(
    "--resume", default="auto", show_default=True, metavar="auto|never|RUN_DIR",
    help="auto: skip finished runs of these settings, go on with unfinished ones.",
)  # fmt: skip
@click.option(
    "--jobs", "num_jobs", type=click.IntRange(1), default=1, show_default=True,
    help="Runs to train at once; they share the cores.",
)  # fmt: skip
@ray_tasks_option("Train")
@click.option(
    "--warm-start", is_flag=True,
    help="Begin each lambda from the best model of the next smaller one.",
)  # fmt: skip
@click.option(
    "--context", "context_runs", multiple=True, metavar="RUN_DIR",
    help="Let the codec see the next coarser level as this run decodes it (repeatable).",
)  # fmt: skip
@click.option(
    "--context-on-the-fly", is_flag=True,
    help="Decode the coarser levels while training instead of storing what is decoded.",
)  # fmt: skip
@click.option(
    "--coarse-to-fine", is_flag=True,
    help="With --level all: coarsest first, each level beside the run of the one before.",
)  # fmt: skip
@click.option(
    "--dry-run", is_flag=True,
    help="Only show runs, steps, time, bytes and memory; takes some steps, writes nothing.",
)  # fmt: skip
@nodes_option
@click.option(
    "--init-from", metavar="RUN_DIR",
    help="Begin from the best model of this run, of the same level and model.",
)  # fmt: skip
@click.option(
    "--out", metavar="DIR", type=PlaceType(), help="Folder for the runs; default: checkpoints/."
)
@detection_checkpoint_option
@features_option
@trust_code_option
@common_options
@run_command
def train_level(
    level: str | None, split: str, val_split: str, lambdas: tuple[float, ...], num_seeds: int,
    epochs: int | None, batch_size: int | None, resume: str, num_jobs: int,
    ray_address: str | None, ray_cpus: float | None, ray_gpus: float | None, warm_start: bool,
    context_runs: tuple[str, ...], context_on_the_fly: bool, coarse_to_fine: bool, dry_run: bool,
    num_nodes: int | None, init_from: str | None, out: str | None,
    detection_checkpoint: str | None, config: str | None, overrides: tuple[str, ...],
    features: FeaturesPlace, trust_code: bool, device: str, log_level: str,
) -> None:  # fmt: skip
    """Train the codec of one FPN level from its cache; no detector is run.

    \b
      train-level --level 0
      train-level --level all --lambda 0.01 --lambda 0.03 --jobs 2
      train-level --level all --lambda 0.01 --lambda 0.03 --ray --ray-gpus 0.25
      train-level --level all --config mine.yaml,per_level
      train-level --level random
      train-level --level fused
      train-level --level all --coarse-to-fine
      train-level --level 1 --context checkpoints/..._level_2/run_...
      torchrun --no-python --nproc-per-node 2 train-level --level 0
    """
    setup_logging(log_level)
    share_cores()
    _check_lambdas(lambdas)
    refuse_nodes_in_earnest(num_nodes, dry_run)
    if context_runs and level == "all":
        raise ConfigError(
            "--context: is for one level: name that, or train all levels with --coarse-to-fine"
        )
    check_ray_options(
        ray_address, needing_it={"--ray-cpus": ray_cpus, "--ray-gpus": ray_gpus},
        never_with_it={"--jobs": num_jobs > 1},
    )  # fmt: skip
    if ray_address is not None and not dry_run:
        from data.system.ray_cluster import check_address

        check_address(ray_address)
    wanted = level_of(level) if resume in ("auto", "never") else None
    copies = copies_in(features.local_cache)
    resumed_url = resume if is_url(resume) else None
    if wanted is None:
        if resumed_url is not None:
            from train.study.study_place import fetch_resumed

            out, resume, beside = fetch_resumed(resumed_url, copies)
            context_runs = context_runs or beside
        _check_resumed(Path(resume), num_seeds)
    context_urls = tuple(filter(is_url, context_runs))
    if context_urls:
        from train.runs.remote_runs import run_here

        context_runs = tuple(str(run_here(run, copies)) for run in context_runs)

    from configs.config_files import load_config
    from configs.trusted_code import named_code, own_trust, refuse_untrusted

    given = {"training.epochs": epochs, "training.batch_size": batch_size}
    changed = (
        *with_detection_checkpoint(overrides, detection_checkpoint),
        *(f"{key}={value}" for key, value in given.items() if value is not None),
        *(("training.warm_start=true",) if warm_start else ()),
        *((f"training.context={json.dumps(context_runs)}",) if context_runs else ()),
        *(("training.context_on_the_fly=true",) if context_on_the_fly else ()),
        *(() if init_from is None else (f"training.init_from={json.dumps(init_from)}",)),
    )
    # A run knows its configuration: without --config it is the run's.
    own = Path(resume, "config.yaml") if wanted is None and config is None else None
    settings = load_config(own or config, changed)
    trust = own_trust(settings, overrides, of_run=own is not None, trust_code=trust_code)
    refuse_untrusted(named_code(settings), trust, own)
    if detection_checkpoint and not Path(detection_checkpoint).is_file():
        # A configuration may name a checkpoint that only another machine has; an option may not.
        raise ConfigError(f"--detection-checkpoint {detection_checkpoint}: no such file")

    from data.cache.cache_folder import CacheFolder
    from data.remote.node_copies import NodeCopies
    from data.remote.opening import features_root
    from extract.detector.freshness import refuse_stale_cache
    from train.forecast.forecast import lines_of_dry_run
    from train.loop.job import Job
    from train.machine.distributed import most_restarts, open_world
    from train.study.chain_on_node import StudyCopies
    from train.study.coarse_to_fine import from_coarse_to_fine
    from train.study.grid import grid, trials
    from train.study.resumed_run import resumed_job
    from train.study.study import run_study
    from train.study.study_on_ray import refuse_beside_ray, run_study_on_ray
    from train.study.study_place import place_of_study

    if resume == "never" and (restarts := most_restarts()):
        raise ConfigError(
            f"--resume never: each of torchrun's {restarts} restarts would begin anew: leave it "
            "out, and name another --out where runs are not to go on, or use --max-restarts 0"
        )
    usual = Path("features") / settings.data.name
    root = features_root(features, usual, (split, val_split))
    caches = {name: CacheFolder(root / name) for name in (split, val_split)}
    for name, cache in caches.items():
        refuse_stale_cache(cache, name, settings)
    place = place_of_study(out, settings, wanted, copies)
    # On a cluster each task has a device, and this process none.
    own_device = choose_device(device) if ray_address is None else "cpu"
    with open_world(own_device) as (world, torch_device):
        if ray_address is not None:
            refuse_beside_ray(world, resume=resume)
        if num_jobs > 1 and world.size > 1:
            raise ConfigError("--jobs: torchrun's processes train one run after another: use 1")
        job = Job(
            train_cache=caches[split], val_cache=caches[val_split], level=0, config=settings,
            device=torch_device, out=place.out, trust_code=trust, copies=copies,
        )  # fmt: skip
        if wanted is None:
            jobs = [resumed_job(job, Path(resume), level, lambdas, epochs, changed)]
        else:
            jobs = grid(job, wanted, [
                load_config(config, (*changed, *own)) if own else settings
                for own in trials(settings, lambdas, num_seeds)
            ])  # fmt: skip
        if coarse_to_fine:
            jobs = from_coarse_to_fine(jobs, wanted)
        if resume == "auto" and (dry_run or ray_address is None):
            place.fetch(jobs)
        if dry_run:
            click.echo("\n".join(lines_of_dry_run(
                jobs, go_on=resume != "never", num_nodes=num_nodes,
                devices_per_node=num_devices(device),
            )))  # fmt: skip
            return
        with place.sending(world.writes and ray_address is None):
            if ray_address is None:
                study = run_study(
                    jobs, go_on=resume == "auto", num_jobs=num_jobs, log_level=log_level,
                    world=world,
                )  # fmt: skip
            else:
                study = run_study_on_ray(
                    jobs, address=ray_address, device=device, num_cpus=ray_cpus,
                    num_gpus=ray_gpus, log_level=log_level,
                    at_urls=StudyCopies(
                        nodes=NodeCopies.of_command(features, (split, val_split)), out=place.url,
                        context=context_urls, resumed=resumed_url,
                    ),
                )  # fmt: skip
            failed = [each for each in study if not tell_outcome(each, place, world, jobs)]
    if failed:
        fail_with(failed, jobs)


def level_of(text: str | None) -> int | str:
    """Return what --level asks of new runs: a number, or a word as it is. ConfigError otherwise."""
    words = "all, random, or fused"
    if text is None:
        raise ConfigError(f"--level: say which: 0 to 4, {words}")
    if text in ("all", "random", "fused"):
        return text
    if not text.isdecimal():
        raise ConfigError(f"--level {text}: use a level's number (0 is the finest), {words}")
    return int(text)


def _check_lambdas(lambdas: tuple[float, ...]) -> None:
    """Raise ConfigError if a lambda is infinite or not a number."""
    for lmbda in lambdas:
        if not math.isfinite(lmbda):
            raise ConfigError(f"--lambda {lmbda}: use a finite number, 0 or more")


def _check_resumed(folder: Path, num_seeds: int) -> None:
    if num_seeds > 1:
        raise ConfigError(f"--resume {folder}: is one run, of one seed: leave out --seeds")
    if not folder.is_dir():
        raise ConfigError(f"--resume {folder}: no such folder: use auto, never or a run folder")
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"--resume {folder}: no run: it holds no config.yaml: name a run folder")
