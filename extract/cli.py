"""extract-features: parse, load, run, print."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from configs.cluster_options import (
    check_ray_options,
    nodes_option,
    ray_option,
    refuse_nodes_in_earnest,
)
from configs.cores import share_cores
from configs.errors import BadImageError, ConfigError
from configs.log_setup import setup_logging
from configs.options import (
    FeaturesPlace,
    choose_device,
    common_options,
    detection_checkpoint_option,
    features_option,
    num_devices,
    run_command,
    split_name,
    with_detection_checkpoint,
)
from extract.checked_first import check_first

# What a command works with is imported where it begins to work: --help needs none of it.
if TYPE_CHECKING:
    from configs.schema.config import Config
    from data.images.records import ImageSet

log = logging.getLogger(__name__)


def _override(name: str, value: object) -> tuple[str, ...]:
    return () if value is None else (f"{name}={value}",)


@click.command(name="extract-features")
@click.option(
    "--split",
    "splits",
    callback=split_name,
    multiple=True,
    required=True,
    help="Split (repeatable).",
)
@click.option("--levels", metavar="0,1,..", help="Levels to store; default: all.")
@click.option("--dtype", type=click.Choice(["float16", "float32", "uint8"]), help="Stored type.")
@click.option("--crop", type=click.IntRange(1), help="Store random crops (training only).")
@click.option("--container", type=click.Choice(["zarr", "hdf5"]), help="Kind of store.")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Images computed at once: on a CPU one a core (default: all cores, 16 at most), "
    "on a GPU in one call (default: four megapixels' worth).",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Threads that decode images ahead for a GPU (default: all cores but two, 16 at most).",
)
@click.option("--limit", type=click.IntRange(1), help="Only the first N images.")
@click.option(
    "--skip-bad-images",
    is_flag=True,
    help="Leave out images that cannot be read, and record them in the manifest.",
)
@click.option("--dry-run", is_flag=True, help="Print sizes and expected time; leave nothing.")
@nodes_option
@click.option("--overwrite", is_flag=True, help="Replace a cache of another plan.")
@click.option("--verify", is_flag=True, help="Check every stored byte; compute nothing.")
@ray_option("Compute")
@click.option(
    "--ray-cpus",
    type=click.IntRange(1),
    help="Cores of each worker on Ray; it has one GPU, or none where the cluster has none "
    "(default: a node's cores divided by its GPUs; all, 16 at most, without).",
)
@detection_checkpoint_option
@features_option
@common_options
@run_command
def extract_features(
    splits: tuple[str, ...], levels: str | None, dtype: str | None, crop: int | None,
    container: str | None, batch_size: int | None, workers: int | None, limit: int | None,
    skip_bad_images: bool, dry_run: bool, num_nodes: int | None, overwrite: bool, verify: bool,
    ray_address: str | None, ray_cpus: int | None,
    detection_checkpoint: str | None, config: str | None, overrides: tuple[str, ...],
    features: FeaturesPlace, device: str, log_level: str,
) -> None:  # fmt: skip
    """Run the detector once over a split and store each FPN level's features.

    Run it again after any interruption: it goes on where it stopped.

    \b
      extract-features --split train --split val
      extract-features --split train --config kitti --detection-checkpoint best_model.pth
    """
    from configs.config_files import load_config
    from data.places.object_store import is_url
    from data.remote.opening import features_root

    setup_logging(log_level)
    share_cores()
    check_ray_options(
        ray_address, needing_it={"--ray-cpus": ray_cpus},
        never_with_it={"--dry-run": dry_run, "--verify": verify},
    )  # fmt: skip
    refuse_nodes_in_earnest(num_nodes, dry_run)
    settings = load_config(config, (
        *with_detection_checkpoint(overrides, detection_checkpoint),
        *_override("cache.levels", f"[{levels}]" if levels else None),
        *_override("cache.dtype", dtype), *_override("cache.crop", crop),
        *_override("cache.container", container),
    ))  # fmt: skip
    root = features_root(features, Path("features") / settings.data.name, splits, writing=True)
    if verify:
        if features.given is not None and is_url(features.given):
            raise ConfigError(
                f"--verify {features.given}: samples of an object store are checked when they are "
                "fetched, and of a folder alone all at once: leave --verify out"
            )
        from data.verification.check import verify_and_mark

        verify_and_mark([root / split for split in dict.fromkeys(splits)], click.echo)
        return

    from data.cache.manifest import FILE_NAME
    from data.images.image_sets import first_images, load_images, readable_images
    from data.images.views import with_views
    from data.system.ray_cluster import check_address

    if ray_address is not None:
        check_address(ray_address)
    # The cluster's devices are its own; what is planned here is planned on a CPU.
    check_first(settings, splits, device if ray_address is None else "auto")
    with _hint("run with --skip-bad-images"):
        image_sets = {
            split: first_images(load_images(settings.data, split, skip_bad=skip_bad_images), limit)
            for split in dict.fromkeys(splits)
        }
    if not dry_run and not skip_bad_images:
        image_sets = {
            split: images
            for split, images in image_sets.items()
            if not _is_finished(root / split, images, settings)
        }
        if not image_sets:
            return
    # Later still, as they import torch: what is finished needs none of them.
    from extract.cluster.on_ray import on_ray
    from extract.detector.loading import load_detector
    from extract.dry_run.estimate import estimate
    from extract.dry_run.many_nodes import line_on_nodes
    from extract.features.extraction import extract, plan_extraction
    from extract.features.pipeline import usual_num_workers

    here = choose_device(device) if ray_address is None else "cpu"
    detector = load_detector(settings.detector, here)
    if skip_bad_images:
        image_sets = {
            split: readable_images(
                images, settings.data, num_workers=workers or usual_num_workers()
            )
            for split, images in image_sets.items()
        }
    promised_bytes = 0
    with on_ray(
        ray_address, settings.detector, detector.weights_sha256, device=device,
        num_cores=ray_cpus, batch_size=batch_size, num_decoding=workers,
    ) as elsewhere:  # fmt: skip
        for split, images in image_sets.items():
            views = with_views(images, settings.data.splits[split].augmentation)
            with _hint("run with --skip-bad-images"):
                manifest = plan_extraction(
                    settings.data.name, views, detector, settings.detector, settings.cache
                )
                table = None
                if dry_run:
                    foreseen = estimate(
                        manifest, detector.model, root / split,
                        batch_size=batch_size, num_workers=workers, promised_bytes=promised_bytes,
                    )  # fmt: skip
                    promised_bytes += foreseen.needed_bytes
                    table = foreseen.table()
                    if num_nodes is not None:
                        table += "\n" + line_on_nodes(foreseen, num_nodes, num_devices(device))
            if table is not None:
                click.echo(f"{split}:\n{table}")
                _tell_skipped(images, "would be skipped as unreadable")
                continue
            # A bad image that is met only now has its place in the plan already.
            with _hint("run with --skip-bad-images --overwrite"):
                done = extract(
                    root / split, manifest, views, detector.model,
                    batch_size=batch_size, num_workers=workers, overwrite=overwrite,
                    elsewhere=elsewhere,
                )  # fmt: skip
            if done.num_new_images:
                click.echo(
                    f"{split}: {done.num_new_images} images, {done.num_new_bytes / 1e9:.3f} GB in "
                    f"{done.seconds:.1f} s ({done.num_new_images / done.seconds:.2f} images/s) "
                    f"-> {root / split}"
                )
                if done.busy:
                    shares = ", ".join(f"{stage} {share:.0%}" for stage, share in done.busy.items())
                    log.info("%s: share of the time at work, side by side: %s", split, shares)
            else:
                _tell_finished(root / split, done.num_images)
            _tell_skipped(images, f"were skipped as unreadable: see {root / split / FILE_NAME}")


def _is_finished(folder: Path, images: ImageSet, settings: Config) -> bool:
    """Say so, and tell the user, if that is known without the detector."""
    from data.images.views import with_views
    from extract.features.finished import finished_without_detector

    views = with_views(images, settings.data.splits[images.split].augmentation)
    finished = finished_without_detector(folder, views, settings)
    if finished:
        _tell_finished(folder, len(views.records))
    return finished


def _tell_finished(folder: Path, num_images: int) -> None:
    click.echo(f"{folder.name}: all {num_images} images are in {folder} already")


@contextmanager
def _hint(text: str) -> Iterator[None]:
    """Add to the line about a bad image what else can be done."""
    try:
        yield
    except BadImageError as error:
        raise ConfigError(f"{error}, or {text}") from error


def _tell_skipped(images: ImageSet, what: str) -> None:
    for image in images.skipped:
        log.info("skipped: %s: %s", image.file, image.reason)
    if images.skipped:
        total = len(images.records) + len(images.skipped)
        click.echo(f"{images.split}: {len(images.skipped)} of {total} images {what}")
