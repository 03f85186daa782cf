"""analyze-levels: what each level costs, what it loses, and what that does to detection."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import click

from analyze.anchors.names import ANCHOR_NAMES, FAST_ANCHORS, anchors_of
from configs.cluster_options import check_ray_options, ray_tasks_option
from configs.cores import share_cores
from configs.errors import ConfigError
from configs.log_setup import setup_logging
from configs.options import (
    FeaturesPlace,
    choose_device,
    common_options,
    detection_checkpoint_option,
    features_option,
    run_command,
    split_name,
    trust_code_option,
    with_detection_checkpoint,
)
from data.places.local_copies import PlaceType, beside, copies_in
from data.places.object_store import is_url

# What the command works with is imported where it begins to work: neither --help nor wrong usage
# needs any of it.

_USUAL_DROP = 0.01
# Of a configuration's own code an analysis needs this; its runs' codecs stand in checkpoints.
_FOLLOWED = ("data.format", "detector.builder")
_PACKAGES = (
    "torch", "torchvision", "compressai", "pycocotools", "bjontegaard", "numba", "av", "numpy",
)  # fmt: skip


@click.command(context_settings={"show_default": True})
@common_options
@click.option(
    "--split",
    callback=split_name,
    default="val",
    help="Split whose cache is compressed and evaluated.",
)
@click.option(
    "--checkpoints", default="checkpoints", type=PlaceType(path_type=Path),
    help="Folder in which runs are looked for.",
)  # fmt: skip
@click.option(
    "--report", default=None, type=PlaceType(path_type=Path, file_okay=False),
    help="Folder that receives the report.  [default: reports/<time>]",
)  # fmt: skip
@click.option(
    "--kept", default=None, type=PlaceType(path_type=Path, file_okay=False),
    help="Folder of results that later analyses use again.  [default: kept, beside the report]",
)  # fmt: skip
@detection_checkpoint_option
@features_option
@trust_code_option
@click.option(
    "--target-bpp",
    type=click.FloatRange(min=0, min_open=True),
    metavar="B",
    help="Allocate at most B bits per pixel to the levels, for the best mAP.",
)
@click.option(
    "--target-map-drop",
    type=click.FloatRange(min=0),
    metavar="D",
    help="Allocate the fewest bits that lose at most D of mAP (0..1).  [default: 0.01]",
)
@click.option(
    "--target-mse",
    type=click.FloatRange(min=0, min_open=True),
    metavar="E",
    help="Allocate the fewest bits for a mean squared error of at most E over all levels.",
)
@click.option(
    "--cross-fit",
    type=click.IntRange(min=2),
    metavar="K",
    help="Measure the allocation on images that did not choose it: in K folds.",
)
@click.option(
    "--choose-on",
    callback=split_name,
    metavar="SPLIT",
    help="Choose the allocation by another split's images, measure it on --split.",
)
@click.option(
    "--anchors",
    default="fast",
    metavar="NAME[,NAME...]",
    help=f"Anchors to compare with: {', '.join(ANCHOR_NAMES)}; "
    f"fast: {', '.join(FAST_ANCHORS)}; images: those of the image itself; all; none; "
    "your own package.module:name.",
)
@click.option(
    "--per-image", is_flag=True,
    help="Measure images that choose their runs themselves, within the target's bits.",
)  # fmt: skip
@click.option("--matrix", is_flag=True, help="Measure each model on each level.")
@click.option("--sensitivity", is_flag=True, help="Measure mAP under noise in each level.")
@click.option(
    "--suggest-lambda",
    is_flag=True,
    help="Say where the next lambdas should lie: in the largest gaps, or at a --target named.",
)
@click.option(
    "--classes",
    default=None,
    metavar="NAME[,NAME...]",
    help="Evaluate detection on these classes alone.  [default: all that have boxes]",
)
@click.option("--limit", default=None, type=click.IntRange(min=1), help="Only the first N images.")
@click.option(
    "--dry-run", is_flag=True,
    help="Print expected time, scratch space and memory, from a few images; write nothing.",
)  # fmt: skip
@ray_tasks_option("Measure runs and anchors")
@click.argument("run_dirs", metavar="[RUN_DIR]...", nargs=-1, type=PlaceType(path_type=Path))
@run_command
def analyze_levels(
    config: str | None,
    overrides: tuple[str, ...],
    features: FeaturesPlace,
    trust_code: bool,
    device: str,
    log_level: str,
    split: str,
    checkpoints: Path | str,
    report: Path | str | None,
    kept: Path | str | None,
    detection_checkpoint: str | None,
    target_bpp: float | None,
    target_map_drop: float | None,
    target_mse: float | None,
    cross_fit: int | None,
    choose_on: str | None,
    per_image: bool,
    anchors: str,
    matrix: bool,
    sensitivity: bool,
    suggest_lambda: bool,
    classes: str | None,
    limit: int | None,
    dry_run: bool,
    ray_address: str | None,
    ray_cpus: float | None,
    ray_gpus: float | None,
    run_dirs: tuple[Path | str, ...],
) -> None:
    """Compare the levels: rate, distortion and detection, from caches and checkpoints alone.

    Takes the newest run of every level and lambda, or the RUN_DIRs named. Example:

        analyze-levels --config kitti --split val
    """
    setup_logging(log_level)
    share_cores()
    check_ray_options(
        ray_address, needing_it={"--ray-cpus": ray_cpus, "--ray-gpus": ray_gpus},
        never_with_it={},
    )  # fmt: skip
    if ray_address is not None and not dry_run:
        from data.system.ray_cluster import check_address

        check_address(ray_address)
    named_target = target_of(target_bpp, target_map_drop, target_mse)
    chosen_anchors = anchors_of(anchors)
    from configs.config_files import dump_config, load_config
    from configs.trusted_code import named_code, own_trust, refuse_untrusted

    copies = copies_in(features.local_cache)
    runs_at = (checkpoints, *run_dirs)
    if any(map(is_url, run_dirs)):
        from train.runs.remote_runs import run_here

        run_dirs = tuple(run_here(run, copies) for run in run_dirs)
    runs = tuple(map(Path, run_dirs))
    # A run knows its configuration: without --config it is that of the first run named.
    known = [run / "config.yaml" for run in runs if (run / "config.yaml").is_file()]
    source = known[0] if config is None and known else config
    settings = load_config(source, with_detection_checkpoint(overrides, detection_checkpoint))
    trust = own_trust(settings, overrides, of_run=source is not config, trust_code=trust_code)
    refuse_untrusted(
        {key: x for key, x in named_code(settings).items() if key in _FOLLOWED}, trust, source
    )

    from analyze.allocation.search import Target
    from analyze.analysis import analyze
    from analyze.analysis_on_ray import AnalysisCopies, measure_on_ray
    from analyze.anchors.catalogue import find_anchor
    from analyze.facts.kept_results import Kept
    from analyze.foretell import foretell
    from analyze.report.report_folder import LAST_NAMES, alone_in, write_report
    from analyze.report.sections import ReportOrigin
    from analyze.report.summary import summary
    from analyze.request import AnalysisRequest, Wanted
    from data.remote.opening import features_root
    from train.runs.remote_runs import runs_here

    for name in chosen_anchors:
        find_anchor(name)  # one's own that there is not is told now, and not after hours
    kind, value = named_target or ("map_drop", _USUAL_DROP)
    now = datetime.now().astimezone()
    place = report or Path("reports") / f"{now:%Y%m%d_%H%M%S}"
    root = features_root(features, Path("features") / settings.data.name, (split,))
    request = AnalysisRequest(
        cache=root / split,
        split=split,
        checkpoints=checkpoints if runs else runs_here(checkpoints, copies),
        run_dirs=runs,
        config=settings,
        device=choose_device(device),
        limit=limit,
        classes=tuple(name.strip() for name in classes.split(",")) if classes else (),
        options=_options(source, features.given, detection_checkpoint),
        trust_code=trust,
    )
    wanted = Wanted(
        target=Target(kind=kind, value=value),
        is_named=named_target is not None,
        anchors=chosen_anchors,
        matrix=matrix,
        sensitivity=sensitivity,
        suggest_lambda=suggest_lambda,
        cross_fit=cross_fit or 0,
        choose_on=choose_on or "",
        per_image=per_image,
    )
    with ExitStack() as stack:
        folder = stack.enter_context(copies.written(place, at_end=LAST_NAMES))
        kept = kept or beside(place, "kept")
        known_results = Kept(stack.enter_context(copies.written(kept, unchanging=True)))
        if dry_run:
            click.echo(foretell(request, wanted, folder, known_results).table())
            return
        stack.enter_context(alone_in(folder))
        if ray_address is not None:
            measure_on_ray(
                request, wanted, folder, known_results, address=ray_address, num_cpus=ray_cpus,
                num_gpus=ray_gpus, log_level=log_level,
                at_urls=AnalysisCopies.of_command(features, split, runs_at, kept, report),
            )  # fmt: skip
        findings = analyze(request, wanted, folder, known_results)
        provenance = ReportOrigin(
            created=now.isoformat(timespec="seconds"),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            facts={name: _version(name) for name in _PACKAGES},
            config=dump_config(settings),
        )
        page = write_report(findings, provenance, folder)
    click.echo(summary(findings))
    for suggestion in findings.suggestions:
        click.echo(f"next lambda: {suggestion.command}  ({suggestion.why})")
    for line in findings.result.missing:
        click.echo(f"missing: {line}")
    click.echo(f"tables, curves and pictures: {copies.shown(page)}")


def target_of(
    target_bpp: float | None, target_map_drop: float | None, target_mse: float | None
) -> tuple[Literal["bpp", "map_drop", "mse"], float] | None:
    """Return the one target that is given and its value, or None. ConfigError for several."""
    given = {"bpp": target_bpp, "map_drop": target_map_drop, "mse": target_mse}
    targets = [(kind, value) for kind, value in given.items() if value is not None]
    if len(targets) > 1:
        raise ConfigError(
            "--target-bpp, --target-map-drop and --target-mse: give one of them, not several"
        )
    return targets[0] if targets else None  # type: ignore[return-value]


def _options(config: str | Path | None, features: str | None, checkpoint: str | None) -> str:
    """The options that another command needs to work on the same data, with a leading space."""
    given = {
        "--config": config, "--features": features, "--detection-checkpoint": checkpoint,
    }  # fmt: skip
    return "".join(f" {name} {shlex.quote(str(value))}" for name, value in given.items() if value)


def _version(package: str) -> str:
    """Return a package's version; one that only anchors need may be missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
