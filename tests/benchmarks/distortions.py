r"""What detection makes of a level that was trained by one distortion or another, at equal steps.

    python -m tests.benchmarks.distortions --config mine.yaml --features features/pennfudan \
        --level 1 --lambda 0.05 --epochs 100 --out distortions

The caches of train and val have to be there. Each way is trained with each seed to the last epoch,
by a cosine, so that no validation decides how many steps it takes; the detection loss counts from a
fifth of the epochs on. Runs land in OUT/seed_<n>, and the same command goes on where it was
stopped. A level is measured on val by real bitstreams, the other levels as cached; its best model
was chosen there too, for all ways alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from analyze.allocation.search import Target
from analyze.analysis import AnalysisRequest, Wanted, analyze
from analyze.facts.kept_results import Kept
from analyze.facts.results import LevelRow
from configs.config_files import load_config
from tests.benchmarks.report import Cell, Table, save
from train.loop.job import Job
from train.machine.distributed import ALONE
from train.study.study import run_study

WAYS: Mapping[str, Sequence[str]] = {
    "mse": ("distortion=mse",),
    "object_weighted": ("distortion=object_weighted",),
    "detector": ("distortion=detector",),
    "detector+detection_loss": ("distortion=detector", "detection_loss.weight=0.1"),
}
"""As an analysis names what learned a run, and the settings of training that it is of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What is compared: each way, with each seed, at each lambda, on each level."""

    config: str | None
    features: Path
    out: Path
    levels: Sequence[int]
    lambdas: Sequence[float]
    seeds: Sequence[int]
    epochs: int
    device: str
    overrides: Sequence[str] = ()

    def run(self) -> Table:
        """Train what is not trained yet, measure it, and return a row for each way."""
        jobs = [self._job(*each) for each in self._grid()]
        failed = [
            outcome.error
            for outcome in run_study(
                jobs, go_on=True, num_jobs=1, log_level="info", world=ALONE
            )
            if outcome.error is not None
        ]  # fmt: skip
        if failed:
            raise SystemExit(failed[0])
        found = [row for seed in self.seeds for row in self._measured(seed)]
        rows = [
            self._row(way, level, lmbda, found)
            for level in self.levels
            for lmbda in self.lambdas
            for way in WAYS
        ]
        return Table(
            title=f"distortions: {len(self.seeds)} seeds, {self.epochs} epochs on {self.device}",
            note="means over the seeds, and from the least to the largest mAP",
            columns=[
                "",
                "level",
                "lambda",
                "bits/position",
                "bits/pixel",
                "MSE",
                "mAP",
                "of seeds",
            ],
            rows=rows,
        )

    def _grid(self) -> list[tuple[int, str, int, float]]:
        return [
            (seed, way, level, lmbda)
            for seed in self.seeds
            for level in self.levels
            for lmbda in self.lambdas
            for way in WAYS
        ]

    def _job(self, seed: int, way: str, level: int, lmbda: float) -> Job:
        settings = (
            *WAYS[way], f"lambda={lmbda!r}", f"seed={seed}", f"epochs={self.epochs}",
            "early_stopping.enabled=false", "lr_schedule.name=cosine",
        )  # fmt: skip
        if "detection_loss" in way:
            settings += (f"detection_loss.from_epoch={max(1, self.epochs // 5)}",)
        named = [f"training.{setting}" for setting in settings]
        return Job(
            train_cache=self.features / "train", val_cache=self.features / "val", level=level,
            config=load_config(self.config, [*self.overrides, *named]), device=self.device,
            out=self._folder(seed),
        )  # fmt: skip

    def _measured(self, seed: int) -> Sequence[LevelRow]:
        request = AnalysisRequest(
            cache=self.features / "val", split="val", device=self.device,
            config=load_config(self.config, self.overrides), checkpoints=self._folder(seed),
        )  # fmt: skip
        wanted = Wanted(target=Target(kind="map_drop", value=0.01))
        found = analyze(request, wanted, scratch=self.out, kept=Kept(self.out / "kept"))
        return found.result.rows

    def _folder(self, seed: int) -> Path:
        return self.out / f"seed_{seed}"

    def _row(self, way: str, level: int, lmbda: float, found: Sequence[LevelRow]) -> list[Cell]:
        rows = [
            (row.measurement, row.alone)
            for row in found
            if row.measurement is not None
            and (row.learner, row.facts.level, row.measurement.lmbda) == (way, level, lmbda)
        ]
        maps = [alone.map for _, alone in rows if alone is not None]
        return [
            way, level, f"{lmbda:g}", mean(each.real_bpp for each, _ in rows),
            mean(each.bits_per_pixel for each, _ in rows), mean(each.mse for each, _ in rows),
            mean(maps) if maps else None,
            f"{min(maps):.3f} to {max(maps):.3f}" if maps else None,
        ]  # fmt: skip


def main() -> None:
    """Read the options, compare, print and keep the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config")
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--level", type=int, action="append", required=True)
    parser.add_argument("--lambda", type=float, action="append", required=True, dest="lmbda")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    table = Comparison(
        config=given.config, features=given.features, out=given.out, levels=given.level,
        lambdas=given.lmbda, seeds=given.seed or (0, 1), epochs=given.epochs, device=given.device,
        overrides=given.overrides,
    ).run()  # fmt: skip
    print(f"\n{table.text()}", flush=True)
    save("distortions", [table])


if __name__ == "__main__":
    main()
