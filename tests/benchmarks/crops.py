"""Random 64x64 crops out of large maps against the maps whole: time, and bytes from the disk."""

from __future__ import annotations

from pathlib import Path

from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from tests.benchmarks.accounting import BytesRead, evict, files_below, in_fresh_process
from tests.benchmarks.level_epoch import BATCH_SIZE, load_code
from tests.benchmarks.report import Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians, timed
from tests.benchmarks.synthetic_cache import NUM_CHANNELS, lay_out_cache, plan_cache

CROP = 64
SHAPE = (200, 336)
NUM_SAMPLES = 64


def cold_crop_bytes(cache: Path) -> int:
    """Return the bytes that an epoch of crops takes from the disk, the reader already open."""
    load_code("zarr")
    with LevelReader(cache, 0) as reader:
        evict(files_below(cache))
        before = BytesRead.until_now()
        for _ in LevelStream(reader, batch_size=BATCH_SIZE, crop=CROP):
            pass
        return BytesRead.until_now().since(before).larger


def run(folder: Path) -> list[Table]:
    """Measure on a Zarr cache of one level."""
    cache = folder / "cache"
    lay_out_cache(cache, *plan_cache(NUM_SAMPLES, {0: SHAPE}))
    crop_bytes = CROP * CROP * NUM_CHANNELS * 2
    touched = in_fresh_process(cold_crop_bytes, cache) / NUM_SAMPLES
    with LevelReader(cache, 0) as reader:
        crops = LevelStream(reader, batch_size=BATCH_SIZE, crop=CROP)
        maps = LevelStream(reader, batch_size=BATCH_SIZE, crop=None)

        def epoch(stream: LevelStream, number: int) -> None:
            stream.set_epoch(number)
            assert sum(len(batch.features) for batch in stream) == NUM_SAMPLES

        seconds = medians(
            interleaved(
                {
                    "crops": timed(lambda number: epoch(crops, number)),
                    "maps": timed(lambda number: epoch(maps, number)),
                }
            )
        )
        sample_bytes = reader.manifest.sample_bytes(0, 0)
    per_sample = {name: value / NUM_SAMPLES for name, value in seconds.items()}
    return [
        Table(
            title=f"crops: {CROP}x{CROP} of {SHAPE[0]}x{SHAPE[1]}x{NUM_CHANNELS}, cache warm",
            columns=["batches of", "ms per sample", "samples/s", "GB/s"],
            rows=[
                [name, per_sample[name] * 1e3, 1 / per_sample[name], size / 1e9 / per_sample[name]]
                for name, size in (("crops", crop_bytes), ("maps", sample_bytes))
            ],
            goals=[
                Goal(
                    what="map's time / crop's",
                    ratio=per_sample["maps"] / per_sample["crops"],
                    at_least=5.0,
                )
            ],
        ),
        Table(
            title="crops: bytes from the disk, files cold, fresh process",
            columns=["", "MB per sample"],
            rows=[
                ["crop", crop_bytes / 1e6],
                ["read for it", touched / 1e6],
                ["whole map", sample_bytes / 1e6],
            ],
            goals=[Goal(what="bytes read / crop's bytes", ratio=touched / crop_bytes, at_most=1.2)],
        ),
    ]


if __name__ == "__main__":
    main("crops", run)
