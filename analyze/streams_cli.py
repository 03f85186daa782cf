"""compress-features and decompress-features: parse, load, run, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from configs.cores import share_cores
from configs.errors import CacheError, ConfigError
from configs.log_setup import setup_logging
from configs.options import (
    choose_device,
    local_cache_option,
    machine_options,
    run_command,
    split_name,
    trust_code_option,
)
from data.places.local_copies import PlaceType, copies_in
from data.places.object_store import is_url

# What a command works with is imported where it begins to work: neither --help nor wrong usage
# needs any of it.
if TYPE_CHECKING:
    from analyze.image_choice.ways import Ways
    from analyze.streams.ensemble import Ensemble
    from data.cache.cache_folder import CacheFolder
    from data.places.local_copies import LocalCopies
    from train.runs.loaded_models import LoadedModels


fast_cpu_option = click.option(
    "--fast-cpu", type=click.Choice(["auto", "never"]), default=None,
    help="Instead of the runs' own model.fast_cpu: never codes layer by layer on a CPU.",
)  # fmt: skip


@click.command(name="compress-features", context_settings={"show_default": True})
@click.option(
    "--run", "runs", multiple=True, type=PlaceType(path_type=Path), metavar="RUN_DIR",
    help="Run folder of train-level; one for each level (repeatable).",
)  # fmt: skip
@click.option(
    "--ensemble", type=PlaceType(path_type=Path, dir_okay=False),
    help="ensemble.yaml that says how each level is sent, instead of --run.",
)  # fmt: skip
@click.option(
    "--features", required=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Folder that holds the splits' caches.",
)  # fmt: skip
@click.option(
    "--split", callback=split_name, default="val", help="Split whose cache is compressed."
)
@click.option(
    "--out", required=True, type=PlaceType(path_type=Path, file_okay=False), metavar="DIR",
    help="Folder that receives one file per image, and an index.",
)  # fmt: skip
@click.option(
    "--per-image", is_flag=True,
    help="Each image takes of the runs named what is best for it, at one --slope or --target-bpp.",
)  # fmt: skip
@click.option(
    "--candidates", type=PlaceType(path_type=Path, dir_okay=False),
    help="candidates.yaml of an analysis, with --per-image instead of --run.",
)  # fmt: skip
@click.option(
    "--slope", type=click.FloatRange(min=0, min_open=True), metavar="S",
    help="With --per-image: what a kilobyte less of an image's file may cost in distortion.",
)  # fmt: skip
@click.option(
    "--target-bpp", type=click.FloatRange(min=0, min_open=True), metavar="B",
    help="With --per-image: the slope at which all files take at most B bits per pixel.",
)  # fmt: skip
@fast_cpu_option
@local_cache_option
@trust_code_option
@machine_options
@run_command
def compress_features(
    runs: tuple[Path | str, ...], ensemble: Path | str | None, features: Path, split: str,
    out: Path | str, per_image: bool, candidates: Path | str | None, slope: float | None,
    target_bpp: float | None, fast_cpu: str | None, local_cache: Path | None, trust_code: bool,
    device: str, log_level: str,
) -> None:  # fmt: skip
    """Compress a split's features, all levels of an image into one file.

    A level without a run is derived from the level before it if it is exactly that, subsampled.
    Run it again after an interruption: files that are whole stay.

    \b
      compress-features --run RUN_DIR --run RUN_DIR .. --features features/kitti --out streams
      compress-features --ensemble ensemble.yaml --features features/kitti --out streams
      compress-features --per-image --candidates study/candidates.yaml --target-bpp 0.1 ..
    """
    setup_logging(log_level)
    share_cores()
    check_source(
        runs, ensemble,
        per_image=per_image, candidates=candidates, slope=slope, target_bpp=target_bpp,
    )  # fmt: skip

    from analyze.image_choice.per_image_compression import compress_per_image
    from analyze.streams.compression import compress_cache
    from analyze.streams.streams_index import FILE_NAME
    from data.cache.cache_folder import CacheFolder
    from data.cache.manifest import FILE_NAME as MANIFEST_NAME
    from train.runs.loaded_models import LoadedModels

    cache = CacheFolder(features / split)
    models = LoadedModels(choose_device(device), fast_cpu=fast_cpu, trust_code=trust_code)
    if not (cache.path / MANIFEST_NAME).is_file():
        raise CacheError(f"{cache}: no cache of the split {split!r}: run extract-features first")
    copies = copies_in(local_cache)
    with copies.written(out, at_end=(FILE_NAME,)) as folder:
        if per_image:
            done = compress_per_image(
                cache, _ways(runs, candidates, cache, models, copies), folder,
                slope=slope, target_bits_per_pixel=target_bpp, models=models,
            )  # fmt: skip
        else:
            by = _ensemble(runs, ensemble, cache, models, copies)
            done = compress_cache(cache, by, folder, models=models)
    click.echo("\n".join(done.lines()))
    index = folder / FILE_NAME
    click.echo(f"{index.stat().st_size} bytes of index -> {copies.shown(index)}")


@click.command(name="decompress-features", context_settings={"show_default": True})
@click.argument("streams", metavar="DIR", type=PlaceType(path_type=Path))
@click.option(
    "--out", required=True, type=PlaceType(path_type=Path, file_okay=False), metavar="DIR",
    help="Folder that receives the cache, as DIR/<split>; the --features of other commands.",
)  # fmt: skip
@click.option(
    "--checkpoints", type=PlaceType(path_type=Path), metavar="DIR",
    help="Folder in which models are looked for that are not where they were.",
)  # fmt: skip
@fast_cpu_option
@local_cache_option
@trust_code_option
@machine_options
@run_command
def decompress_features(
    streams: Path | str, out: Path | str, checkpoints: Path | str | None, fast_cpu: str | None,
    local_cache: Path | None, trust_code: bool, device: str, log_level: str,
) -> None:  # fmt: skip
    """Decode what compress-features wrote into a cache like any other.

    Run it again after an interruption: it goes on where it stopped.

    \b
      decompress-features streams --out decoded
    """
    if is_url(out):
        raise ConfigError(
            f"--out {out}: features are decoded into a folder of this machine: name one"
        )

    from analyze.streams.decompression import decompress_folder
    from analyze.streams.streams_index import load_index
    from train.runs.loaded_models import LoadedModels
    from train.runs.remote_runs import fetch_named, runs_here

    setup_logging(log_level)
    share_cores()
    copies = copies_in(local_cache)
    folder = copies.fetched(streams)
    if is_url(streams):
        fetch_named(load_index(folder).runs, streams, copies)
    known = None if checkpoints is None else runs_here(checkpoints, copies)
    models = LoadedModels(choose_device(device), fast_cpu=fast_cpu, trust_code=trust_code)
    done = decompress_folder(folder, out, checkpoints=known, models=models)
    click.echo(f"{done.num_images} images ({done.num_new_images} new) -> {done.cache}")


def check_source(
    runs: tuple[Path | str, ...], ensemble: Path | str | None, *,
    per_image: bool, candidates: Path | str | None, slope: float | None, target_bpp: float | None,
) -> None:  # fmt: skip
    """Raise ConfigError unless it is said what to send by, and one slope where images choose."""
    if not per_image:
        given = {"--candidates": candidates, "--slope": slope, "--target-bpp": target_bpp}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(f"{name}: give --per-image, too, or leave it out")
        if bool(runs) == (ensemble is not None):
            raise ConfigError("compress-features: give either --run (repeatable) or --ensemble")
        return
    if ensemble is not None:
        raise ConfigError("--ensemble and --per-image: an ensemble leaves no choice: give one")
    if bool(runs) == (candidates is not None):
        raise ConfigError("--per-image: give either --run (repeatable) or --candidates")
    if (slope is None) == (target_bpp is None):
        raise ConfigError("--per-image: give one of --slope and --target-bpp")


def _ways(
    runs: tuple[Path | str, ...], candidates: Path | str | None, cache: CacheFolder,
    models: LoadedModels, copies: LocalCopies,
) -> Ways:  # fmt: skip
    from analyze.image_choice.ways import read_candidates
    from analyze.image_choice.ways_of_runs import ways_of_runs
    from train.runs.remote_runs import fetch_named, run_here

    if candidates is not None:
        ways = read_candidates(copies.fetched_file(candidates))
        fetch_named([each.run for each in ways.models], candidates, copies)
        return ways
    return ways_of_runs([run_here(run, copies) for run in runs], cache.manifest, models)


def _ensemble(
    runs: tuple[Path | str, ...], path: Path | str | None, cache: CacheFolder,
    models: LoadedModels, copies: LocalCopies,
) -> Ensemble:  # fmt: skip
    from analyze.streams.ensemble import ensemble_of_runs, read_ensemble
    from train.runs.remote_runs import fetch_named, run_here

    if path is not None:
        ensemble = read_ensemble(copies.fetched_file(path))
        fetch_named(ensemble.runs, path, copies)
        return ensemble
    here = [run_here(run, copies) for run in runs]
    return ensemble_of_runs(here, cache.manifest.levels, models)
