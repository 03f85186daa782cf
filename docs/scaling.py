"""The tables of scaling.md, by the model of the dry runs: `python docs/scaling.py` prints them.

A test compares them with the page. Change a figure here, print, and paste.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from data.costs.cost_model import Machines, Task, bytes_from_files, duration, hours

# COCO at 800x1344 px: what is stored.
TRAIN_IMAGES, VAL_IMAGES = 118_287, 5_000
MAPS = ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
CHANNELS, INPUT_PIXELS = 256, 800 * 1344
LAMBDAS, EPOCHS, BATCH, CROP, STORED_CROP = 6, 100, 32, 64, 96
UNIT_IMAGES = 3  # of level 0 in a shard of 128 MiB

# Recorded on one H100 (docs/performance.md), code of 2026-11-27.
BARE_LOOP_IMAGES_PER_S, BARE_LOOP_PIXELS = 702.4, 256 * 256
DISK_BYTES_PER_S = 1.3e9
STEP_S, STEP_POSITIONS = 4.5e-3, 32 * 64 * 64
LEAST_STEP_S = 2.2e-3

# Assumed: nobody has measured it. Images cost as their pixels, steps as their positions.
FORWARD_SHARE = 1 / 3  # of a step: a map that is only validated
NETWORK_BYTES_PER_S = 12.5e9  # 100 Gbit/s for each node
STORE_BYTES_PER_S = 100e9  # an object store or parallel file system, all nodes together
GPUS = 8
MEMORY_BYTES = 1e12 / GPUS  # of 2 TB in a node the half keeps files, shared out over its GPUs

FROM_STORE = Machines(
    devices_per_node=GPUS,
    link_bytes_per_s=NETWORK_BYTES_PER_S,
    store_bytes_per_s=STORE_BYTES_PER_S,
)
OWN_DISKS = Machines(devices_per_node=GPUS, link_bytes_per_s=DISK_BYTES_PER_S)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Five levels with six lambdas, and the options that the page compares."""

    lock_step: bool = False
    value_bytes: int = 2
    """Of the train split; the val split is in float16."""
    interval: int = 1
    """validation.interval."""

    def tasks(self) -> list[Task]:
        """Return what one device does alone: a run, or the lambdas of a level in lock-step."""
        tasks = []
        for level in range(len(MAPS)):
            seconds, steps_bytes, val_bytes = self._run(level)
            if self.lock_step:
                read = steps_bytes + LAMBDAS * val_bytes
                tasks.append(Task(device_seconds=LAMBDAS * seconds, num_bytes=read))
            else:
                run = Task(device_seconds=seconds, num_bytes=steps_bytes + val_bytes)
                tasks += [run] * LAMBDAS
        return tasks

    def _run(self, level: int) -> tuple[float, float, float]:
        """Return a run's seconds, and the bytes of its steps and of its validations."""
        num_steps = EPOCHS * -(-TRAIN_IMAGES // BATCH)
        num_validations = EPOCHS / self.interval
        position_s = STEP_S / STEP_POSITIONS
        step_s = max(LEAST_STEP_S, BATCH * cropped(level, CROP) * position_s)
        validation_s = VAL_IMAGES * cropped(level) * position_s * FORWARD_SHARE
        train = bytes_from_files(
            TRAIN_IMAGES * cropped(level, CROP) * CHANNELS * self.value_bytes,
            EPOCHS,
            TRAIN_IMAGES * cropped(level) * CHANNELS * self.value_bytes,
            MEMORY_BYTES,
        )
        val = VAL_IMAGES * cropped(level) * CHANNELS * 2
        return (
            num_steps * step_s + num_validations * validation_s,
            train,
            bytes_from_files(val, num_validations, val, MEMORY_BYTES),
        )


def cropped(level: int, crop: int | None = None) -> int:
    """Return the positions of a level's map, or of a crop of it."""
    height, width = MAPS[level]
    return height * width if crop is None else min(height, crop) * min(width, crop)


def extraction(value_bytes: int) -> list[Task]:
    """Return the units of train2017."""
    image_s = INPUT_PIXELS / BARE_LOOP_PIXELS / BARE_LOOP_IMAGES_PER_S
    image_bytes = sum(map(cropped, range(len(MAPS)))) * CHANNELS * value_bytes
    unit = Task(device_seconds=UNIT_IMAGES * image_s, num_bytes=UNIT_IMAGES * image_bytes)
    return [unit] * -(-TRAIN_IMAGES // UNIT_IMAGES)


def told(tasks: list[Task], machines: Machines, num_nodes: int) -> str:
    """Return hours, and what is the limit."""
    found = duration(tasks, replace(machines, num_nodes=num_nodes))
    return f"{hours(found.seconds)}, {found.limit}"


def sizes() -> Iterator[str]:
    """Yield the table of bytes."""
    columns = ("level", "one image", "share", "train2017, float16", "uint8", "uint8, crops of 96")
    yield f"| {' | '.join(columns)} | val2017 |"
    yield "|---|---|---|---|---|---|---|"
    all_positions = sum(map(cropped, range(len(MAPS))))
    for name, levels in (*((str(n), [n]) for n in range(len(MAPS))), ("all", range(len(MAPS)))):
        positions = sum(map(cropped, levels))
        crops = sum(cropped(level, STORED_CROP) for level in levels)
        image = positions * CHANNELS * 2
        train, val = TRAIN_IMAGES * image, VAL_IMAGES * image
        stored = (train, train / 2, TRAIN_IMAGES * crops * CHANNELS, val)
        yield (
            f"| {name} | {image / 1e6:.1f} MB | {positions / all_positions:.1%} | "
            f"{' | '.join(f'{each / 1e9:,.0f} GB' for each in stored)} |"
        )


def extractions() -> Iterator[str]:
    """Yield the table of extraction."""
    columns = ("float16, a disk in each node", "float16, to the store", "uint8, to the store")
    yield f"| nodes | GPUs | {' | '.join(columns)} |"
    yield "|---|---|---|---|---|"
    for nodes in (1, 2, 4, 8, 16, 32, 100):
        found = (
            told(extraction(2), OWN_DISKS, nodes),
            told(extraction(2), FROM_STORE, nodes),
            told(extraction(1), FROM_STORE, nodes),
        )
        yield f"| {nodes} | {nodes * GPUS} | {' | '.join(found)} |"


STUDIES = {
    "each run alone": Study(),
    "in lock-step": Study(lock_step=True),
    "in lock-step, train in uint8": Study(lock_step=True, value_bytes=1),
    "in lock-step, uint8, validated every 5 epochs": Study(
        lock_step=True, value_bytes=1, interval=5
    ),
    "each run alone, uint8, validated every 5 epochs": Study(value_bytes=1, interval=5),
}


def options() -> Iterator[str]:
    """Yield the table of a study's options on one node."""
    yield "| study | tasks | GPU hours | read from the store | 8 H100: time, limit |"
    yield "|---|---|---|---|---|"
    for name, study in STUDIES.items():
        tasks = study.tasks()
        gpu_hours = sum(task.device_seconds for task in tasks) / 3600
        read = sum(task.num_bytes for task in tasks) / 1e12
        yield (
            f"| {name} | {len(tasks)} | {gpu_hours:.1f} | {read:,.1f} TB | "
            f"{told(tasks, FROM_STORE, 1)} |"
        )


def nodes() -> Iterator[str]:
    """Yield the table of a study on more nodes."""
    chosen = list(STUDIES)[-2:]
    yield f"| nodes | GPUs | {' | '.join(chosen)} |"
    yield "|---|---|---|---|"
    for num_nodes in (1, 2, 4, 10, 30, 100):
        columns = (told(STUDIES[name].tasks(), FROM_STORE, num_nodes) for name in chosen)
        yield f"| {num_nodes} | {num_nodes * GPUS} | {' | '.join(columns)} |"


def tables() -> list[str]:
    """Return the page's tables in its order."""
    return ["\n".join(rows) for rows in (sizes(), extractions(), options(), nodes())]


if __name__ == "__main__":
    print("\n\n".join(tables()))
