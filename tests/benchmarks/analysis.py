"""An analysis on a GPU: seconds of each stage, what it foretold, and hours for COCO's val2017.

Scenes at 800x1344 px, the built-in detector, five levels, three lambdas. The codecs are of default
size and untrained, with latents made large enough to be worth coding.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from analyze.allocation.search import Target
from analyze.analysis import analyze
from analyze.facts.kept_results import Kept
from analyze.foretell import foretell
from analyze.request import AnalysisRequest, Wanted
from configs.schema.config import Config
from data.cache.cache_folder import CacheFolder
from data.images.image_sets import load_images
from data.reading.level_reader import LevelReader
from extract.detector.loading import load_detector
from extract.features.extraction import extract, plan_extraction
from tests.benchmarks.codec_training import CODEC
from tests.benchmarks.report import Cell, Goal, Table, main
from train.codecs.catalogue import build_codec
from train.runs.checkpoint import BEST_NAME, Provenance, encode_checkpoint

INPUT_PX = (800, 1344)
NUM_IMAGES = 100
LAMBDAS = (0.001, 0.01, 0.1)
MODEL = CODEC
COCO_IMAGES = 5000
_LATENT_SCALE = 30
SMALL = {
    "INPUT_PX": (64, 96),
    "NUM_IMAGES": 2,
    "LAMBDAS": (0.01,),
    "MODEL": {"n_hidden": 8, "n_channels": 12},
}


def run(folder: Path, device: str = "cuda") -> list[Table]:
    """Foretell an analysis, then make it."""
    if device == "cuda" and not torch.cuda.is_available():
        note = "not measured: this machine has no GPU"
        return [Table(title="analysis", note=note, columns=[""], rows=[])]
    caches = folder / "features"
    config = _extract(caches, device)
    request = AnalysisRequest(
        cache=caches / "val", split="val", config=config, device=device,
        run_dirs=_untrained_runs(caches / "train", config, folder / "checkpoints"),
    )  # fmt: skip
    wanted = Wanted(target=Target(kind="map_drop", value=0.01))
    forecast = foretell(request, wanted, folder, Kept(None))
    began = time.perf_counter()
    analyze(request, wanted, folder / "report", Kept(None))
    taken = time.perf_counter() - began
    rows: list[list[Cell]] = [
        [each.name, each.times, each.seconds_each * 1e3,
         each.times * each.seconds_each * NUM_IMAGES,
         each.times * each.seconds_each * COCO_IMAGES]
        for each in forecast.stages
    ]  # fmt: skip
    hours = forecast.seconds / NUM_IMAGES * COCO_IMAGES / 3600
    rows.append(["foretold", None, None, forecast.seconds, hours * 3600])
    rows.append(["taken, report and all", None, None, taken, None])
    name = torch.cuda.get_device_name() if device == "cuda" else device
    size = f"{INPUT_PX[0]}x{INPUT_PX[1]} px"
    return [
        Table(
            title=f"analysis: {name}, {NUM_IMAGES} images at {size}, {len(LAMBDAS)} lambdas",
            columns=["", "times", "ms an image", "s", f"s for {COCO_IMAGES} images"],
            rows=rows,
            goals=[Goal(what=f"hours for {COCO_IMAGES} images", ratio=hours, at_most=1)],
            note=f"scratch space {forecast.scratch_bytes / 1e9:.3f} GB, memory "
            f"{forecast.memory_bytes / 1e9:.2f} GB, GPU {(forecast.gpu_bytes or 0) / 1e9:.2f} GB",
        )
    ]


def _extract(caches: Path, device: str) -> Config:
    splits = {"train": {"num_scenes": 8, "scene_seed": 1}} | {
        "val": {"num_scenes": NUM_IMAGES, "scene_seed": 2}
    }
    config = Config.model_validate({
        "data": {"name": "bench", "format": "scenes", "splits": splits},
        "detector": {"resize": INPUT_PX},
        "model": MODEL,
    })  # fmt: skip
    detector = load_detector(config.detector, device)
    for split in splits:
        images = load_images(config.data, split)
        manifest = plan_extraction("bench", images, detector, config.detector, config.cache)
        extract(caches / split, manifest, images, detector.model, show_progress=False)
    return config


def _untrained_runs(train: Path, config: Config, out: Path) -> list[Path]:
    """Write a codec for each level and lambda, standardised as training would."""
    manifest = CacheFolder(train).manifest
    provenance = Provenance(
        cache_fingerprint=manifest.fingerprint,
        detector_weights_sha256=manifest.detector["weights_sha256"],
        versions={},
    )
    folders = []
    for info in manifest.levels:
        with LevelReader(train, info.index) as reader:
            statistics = reader.statistics
        for number, lmbda in enumerate(LAMBDAS):
            torch.manual_seed(number)
            codec = build_codec(config.model, info.num_channels)
            codec.set_standardisation(statistics.mean, statistics.variance)
            with torch.no_grad():
                codec.g_a[-1].weight.mul_(_LATENT_SCALE)
            training = config.training.model_copy(update={"lmbda": lmbda})
            content = encode_checkpoint(
                codec.state_dict(), config.model_copy(update={"training": training}), provenance,
                levels=(info.index,), epoch=1, best_validation_loss=1.0,
            )  # fmt: skip
            folders.append(out / f"level_{info.index}_lambda_{number}")
            folders[-1].mkdir(parents=True)
            (folders[-1] / BEST_NAME).write_bytes(content)
    return folders


if __name__ == "__main__":
    main("analysis", run)
