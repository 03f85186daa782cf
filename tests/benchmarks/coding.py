"""Coding maps beside CompressAI's own compress and decompress: same models, maps and process.

One map at a time, as codecs of images work, of the built-in detector at 800x1088 px. The stock way
is that of CompressAI's models: our transforms, then its entropy models' compress and decompress.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from configs.schema.config import Config
from data.images.image_sets import load_images
from data.reading.level_reader import LevelReader
from data.reading.transfer import on_device
from extract.detector.loading import load_detector
from extract.features.extraction import extract, plan_extraction
from tests.benchmarks import codec_training, stock_coding
from tests.benchmarks.codec_training import trainer
from tests.benchmarks.report import Cell, Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians, timed
from train.codecs.level_codec import LevelCodec

LEVELS = (0, 2, 4)
MODELS = ("factorized_prior_specific_level", "mean_scale_hyperprior")
INPUT_PX = (800, 1088)
NUM_IMAGES = 8
NUM_STEPS = 40
REPEATS = {0: 1, 2: 4, 4: 16}  # coarse maps are coded too soon to be timed once
ROUNDS = 5


def run(folder: Path) -> list[Table]:
    """Train each model of each level for a moment and measure it; one table a model."""
    cache = folder / "cache"
    _extract(cache)
    return [_measure(cache, name) for name in MODELS]


def _extract(cache: Path) -> None:
    scenes = {"format": "scenes", "splits": {"train": {"num_scenes": NUM_IMAGES, "scene_seed": 1}}}
    config = Config.model_validate({"data": scenes, "detector": {"resize": INPUT_PX}})
    images = load_images(config.data, "train")
    detector = load_detector(config.detector, "cpu")
    manifest = plan_extraction("coding", images, detector, config.detector, config.cache)
    extract(cache, manifest, images, detector.model, show_progress=False)


def _measure(cache: Path, name: str) -> Table:
    rows: list[list[Cell]] = []
    goals: list[Goal] = []
    for level in LEVELS:
        codec = _trained(cache, level, name)
        maps = _maps(cache, level)
        codings = {"with transforms": _whole(codec, maps), "entropy coding": _strings(codec, maps)}
        for part, contestants in codings.items():
            seconds = medians(interleaved(_repeated(contestants, level), rounds=ROUNDS))
            ms = {key: value * 1e3 / REPEATS[level] / len(maps) for key, value in seconds.items()}
            for direction in ("encode", "decode"):
                ours, stock = ms[f"{direction}, ours"], ms[f"{direction}, stock"]
                rows.append([f"level {level}, {direction}, {part}", ours, stock, stock / ours])
                what = f"level {level}, {direction}, {part}: CompressAI's time / ours"
                goals.append(Goal(what=what, ratio=stock / ours, at_least=2))
    return Table(
        title=f"coding: {name}",
        columns=["", "ms ours", "ms CompressAI", "ratio"],
        rows=rows,
        goals=goals,
        note=f"milliseconds a map, {NUM_IMAGES} maps of {INPUT_PX[0]}x{INPUT_PX[1]} px inputs",
    )


def _trained(cache: Path, level: int, name: str) -> LevelCodec:
    """Return a codec whose latents are worth coding: after some steps at a high rate."""
    settings = {
        "model": {**codec_training.CODEC, "name": name},
        "learning_rate": 1e-3,
        "lambda": 0.01,
    }
    with trainer(cache, level, precision="float32", batch_size=NUM_IMAGES, **settings) as training:
        for epoch in range(NUM_STEPS):
            training.session.stream.set_epoch(epoch)
            for batch, x in on_device(training.session.stream, "cpu"):
                training(batch, x)
        codec: LevelCodec = training.session.codec.eval()
    codec.autocast_dtype = None
    codec.update_tables()
    return codec


def _maps(cache: Path, level: int) -> list[Tensor]:
    """Return every map as [1, C, H, W] float32."""
    with LevelReader(cache, level) as reader:
        maps = [
            torch.from_numpy(reader.sample(index).copy()) for index in range(reader.num_samples)
        ]
    return [values.float().permute(2, 0, 1)[None].contiguous() for values in maps]


def _whole(codec: LevelCodec, maps: list[Tensor]) -> dict[str, Callable[[], object]]:
    """Return contestants that code all maps, transforms and all."""
    other = stock_coding.as_loaded(codec)
    latent_hw = [stock_coding.latents(other, x).shape[-2:] for x in maps]
    ours = [codec.compress(x) for x in maps]
    stock = [stock_coding.encode(other, stock_coding.latents(other, x)) for x in maps]

    def stock_decode() -> None:
        for x, strings, (height, width) in zip(maps, stock, latent_hw, strict=True):
            y_hat = stock_coding.decode(other, strings, (height, width))
            stock_coding.restored(other, y_hat, (x.shape[-2], x.shape[-1]))

    return {
        "encode, ours": lambda: [codec.compress(x) for x in maps],
        "encode, stock": lambda: [
            stock_coding.encode(other, stock_coding.latents(other, x)) for x in maps
        ],
        "decode, ours": lambda: [
            codec.decompress(out["strings"], out["shape"], out["size"]) for out in ours
        ],
        "decode, stock": stock_decode,
    }


@torch.no_grad()
def _strings(codec: LevelCodec, maps: list[Tensor]) -> dict[str, Callable[[], object]]:
    """Return contestants that code all latents: what stands between the transforms."""
    latents = [stock_coding.latents(codec, x) for x in maps]
    shapes = [(int(y.shape[-2]), int(y.shape[-1])) for y in latents]
    ours = [codec.encode_latents(y) for y in latents]
    stock = [stock_coding.encode(codec, y) for y in latents]
    for strings, others, shape in zip(ours, stock, shapes, strict=True):
        # In float32 and float64 a latent between two whole numbers may be rounded either way.
        off = (
            codec.decode_latents(strings, shape) - stock_coding.decode(codec, others, shape)
        ).abs()
        assert float((off > 0.01).float().mean()) < 0.01, "both must code the same latents"
    return {
        "encode, ours": lambda: [codec.encode_latents(y) for y in latents],
        "encode, stock": lambda: [stock_coding.encode(codec, y) for y in latents],
        "decode, ours": lambda: [
            codec.decode_latents(strings, shape)
            for strings, shape in zip(ours, shapes, strict=True)
        ],
        "decode, stock": lambda: [
            stock_coding.decode(codec, strings, shape)
            for strings, shape in zip(stock, shapes, strict=True)
        ],
    }


def _repeated(
    contestants: dict[str, Callable[[], object]], level: int
) -> dict[str, Callable[[int], float]]:
    def repeat(contestant: Callable[[], object]) -> Callable[[int], float]:
        return timed(lambda _: [contestant() for _ in range(REPEATS[level])])

    return {name: repeat(contestant) for name, contestant in contestants.items()}


if __name__ == "__main__":
    main("coding", run)
