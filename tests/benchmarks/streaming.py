"""How fast shuffled batches come, fine and coarse maps, against the limit and other readers.

Each reads in a process of its own, in turns with the others, without DataLoader workers: they made
every reader slower here. All deliver batches of 8, [8, C, H, W] float16, channels last in memory,
from samples stored channels last. The page cache is warm. The fine level has 192 maps of 64x64
(403 MB), the coarse one 3072 maps of 8x8 (101 MB): of 192 an epoch would be over too soon to be
timed.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks import file_contestants, library_contestants, own_contestants
from tests.benchmarks.contestant import Samples
from tests.benchmarks.library_contestants import is_installed
from tests.benchmarks.own_process import Maker, OwnProcess
from tests.benchmarks.report import Cell, Goal, Table, main
from tests.benchmarks.rounds import interleaved, medians

FINE = Samples(level=0, num=192, shape=(64, 64, 256))
COARSE = Samples(level=3, num=3072, shape=(8, 8, 256))

OURS, HDF5, LIMIT = "ours, zarr", "ours, hdf5", "limit: preadv into one batch"

# Name shown -> the package that it needs, who writes and reads, and the folder: three share one.
READERS: dict[str, tuple[str, Maker, str]] = {
    OURS: ("data", own_contestants.ours_zarr, "zarr"),
    HDF5: ("data", own_contestants.ours_hdf5, "hdf5"),
    LIMIT: ("data", own_contestants.limit, "zarr"),
    "zarr-python array[i]": ("zarr", file_contestants.zarr_array, "zarr"),
    "torch.save per image": ("torch", file_contestants.torch_files, "torch"),
    ".npy per sample": ("numpy", file_contestants.npy_files, "npy"),
    "h5py ds[i]": ("h5py", file_contestants.hdf5_dataset, "h5py"),
    "webdataset": ("webdataset", library_contestants.webdataset_shards, "webdataset"),
    "litdata": ("litdata", library_contestants.litdata_chunks, "litdata"),
    "datasets, torch": ("datasets", library_contestants.datasets_torch, "datasets_torch"),
    "datasets, arrow": ("datasets", library_contestants.datasets_arrow, "datasets_arrow"),
}


def measure(
    title: str, samples: Samples, folder: Path, *, of_limit: float, over_peers: float
) -> Table:
    """Let all contestants take turns; compare their medians."""
    with ExitStack() as processes:
        there = {
            name: processes.enter_context(OwnProcess(maker, samples, folder / where))
            for name, (package, maker, where) in READERS.items()
            if is_installed(package)
        }
        seconds = interleaved(there)
    rates = {
        name: there[name].num_samples * samples.sample_bytes / 1e9 / value
        for name, value in medians(seconds).items()
    }
    spread = {
        name: there[name].num_samples * samples.sample_bytes / 1e9 / max(values)
        for name, values in seconds.items()
    }
    ours, limit = rates[OURS], rates[LIMIT]
    rows: list[list[Cell]] = [
        [name, rates[name], spread[name], rates[name] / limit, ours / rates[name]]
        if name in rates
        else [name, "not installed", None, None, None]
        for name in READERS
    ]
    peers = {name: rates[name] for name in rates if name not in (OURS, HDF5, LIMIT)}
    best = max(peers, key=lambda name: peers[name])
    return Table(
        title=title,
        columns=["reader", "GB/s", "slowest", "of limit", "ours / it"],
        rows=rows,
        goals=[
            Goal(what="ours / limit", ratio=ours / limit, at_least=of_limit),
            Goal(
                what=f"ours / best peer ({best})", ratio=ours / peers[best], at_least=over_peers
            ),
            Goal(
                what="zarr / hdf5", ratio=ours / rates[HDF5], at_least=0.9, at_most=1.1
            ),
        ],
    )  # fmt: skip


def run(folder: Path) -> list[Table]:
    """Measure both sizes."""
    fine, coarse = folder / "fine", folder / "coarse"
    fine.mkdir()
    coarse.mkdir()
    return [
        measure("streaming, fine: 64x64x256", FINE, fine, of_limit=0.8, over_peers=1.0),
        measure("streaming, coarse: 8x8x256", COARSE, coarse, of_limit=0.5, over_peers=2.0),
    ]


if __name__ == "__main__":
    main("streaming", run)
