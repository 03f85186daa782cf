"""Every model on every level: what it is standardised by, what it costs, and what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

import analyze.measure.matrix
from analyze.facts.candidates import Candidate, PlannedLevel
from analyze.facts.kept_results import Kept
from analyze.measure.matrix import Matrix, left_out, matrix_runs, measure_matrix
from analyze.measure.model_cost import model_cost
from configs.errors import CacheError
from configs.schema.training import ModelConfig
from data.reading.level_reader import LevelReader
from tests.support.tiny_codecs import HYPERPRIORS, NUM_CHANNELS, ready_codec
from tests.support.tiny_study import TinyStudy
from tests.support.training_process import options_of
from train.cli import train_level
from train.loop.validation import validate
from train.runs.checkpoint import RunInfo, load_codec
from train.runs.loaded_models import LoadedModels
from train.runs.run_folder import find_random_runs, find_runs


def train(study: TinyStudy, out: Path, *options: str) -> None:
    arguments = options_of(study, out, "--log-level", "warning", *options)
    result = CliRunner().invoke(train_level, arguments)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def runs(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run of each level, finest first, then one of random levels."""
    out = tmp_path_factory.mktemp("runs")
    train(study, out, "--level", "all", "--epochs", "1")
    train(study, out, "--level", "random", "--epochs", "1")
    return [run.folder for run in find_runs(out)] + find_random_runs(out)


@pytest.fixture(scope="module")
def readers(study: TinyStudy) -> Iterator[dict[int, LevelReader]]:
    with ExitStack() as stack:
        yield {
            level: stack.enter_context(LevelReader(study.val_cache, level)) for level in range(5)
        }


@pytest.fixture(scope="module")
def matrix(runs: list[Path], readers: dict[int, LevelReader], study: TinyStudy) -> Matrix:
    return measure_matrix(runs, readers, 3, study.train_cache, LoadedModels(), Kept(None))


def test_rows_are_models_and_columns_levels(matrix: Matrix) -> None:
    names = [*(f"level {level}" for level in range(5)), "random level"]
    assert [model.name for model in matrix.models] == names
    assert matrix.levels == (0, 1, 2, 3, 4)
    assert [len(row) for row in matrix.entries] == [5] * 6
    assert matrix.notes == ()
    for model, row in zip(matrix.models, matrix.entries, strict=True):
        assert (model.epochs, model.batch_size, model.warm_start) == (1, 4, False)
        for entry in row:
            expected = entry.mse + model.lmbda * entry.estimated_bpp
            assert entry.loss == pytest.approx(expected)


def test_own_level_is_what_validation_finds(
    matrix: Matrix, runs: list[Path], readers: dict[int, LevelReader]
) -> None:
    for level in range(5):
        for row in (level, 5):
            codec, info = load_codec(runs[row] / "best_model.pth", level=level)
            expected = validate(codec, readers[level], 1, info.lmbda, "cpu")
            found = matrix.entries[row][level]
            assert found.mse == pytest.approx(expected.mse, rel=1e-5)
            assert found.estimated_bpp == pytest.approx(expected.bpp, rel=1e-5)


def test_other_level_is_standardised_by_that_levels_training_statistics(
    matrix: Matrix, runs: list[Path], readers: dict[int, LevelReader], study: TinyStudy
) -> None:
    codec, info = load_codec(runs[0] / "best_model.pth")
    own = validate(codec, readers[3], 1, info.lmbda, "cpu")
    with LevelReader(study.train_cache, 3) as train:
        codec.set_standardisation(train.statistics.mean, train.statistics.variance)
    expected = validate(codec, readers[3], 1, info.lmbda, "cpu")
    assert matrix.entries[0][3].mse == pytest.approx(expected.mse, rel=1e-5)
    assert matrix.entries[0][3].mse != pytest.approx(own.mse, rel=1e-3)


def test_bits_per_pixel_are_bits_per_position_over_the_pixels_of_the_originals(
    matrix: Matrix, readers: dict[int, LevelReader]
) -> None:
    for level, reader in readers.items():
        positions = int(reader.shapes[:, :2].prod(axis=1).sum())
        pixels = sum(sample.height * sample.width for sample in reader.manifest.samples)
        entry = matrix.entries[0][level]
        assert entry.estimated_bits_per_pixel == pytest.approx(
            entry.estimated_bpp * positions / pixels
        )


def test_five_models_are_kept_for_what_one_costs_to_run(matrix: Matrix) -> None:
    assert matrix.specific is not None
    assert matrix.random is not None
    assert (matrix.specific.models, matrix.random.models) == (5, 1)
    assert matrix.specific.parameters == 5 * matrix.random.parameters
    # The one model has five rows of means and deviations, 256 channels of 4 bytes each.
    assert matrix.specific.storage_bytes == 5 * (matrix.random.storage_bytes - 4 * 2 * 256 * 4)
    assert matrix.specific.encoder_macs_per_image == matrix.random.encoder_macs_per_image
    assert matrix.specific.decoder_macs_per_image == matrix.random.decoder_macs_per_image


def test_second_matrix_runs_no_model(
    runs: list[Path],
    readers: dict[int, LevelReader],
    study: TinyStudy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = [runs[0], runs[5]]
    first = measure_matrix(chosen, readers, 2, study.train_cache, LoadedModels(), Kept(tmp_path))

    def refused(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(analyze.measure.matrix, "_measure", refused)
    assert (
        measure_matrix(chosen, readers, 2, study.train_cache, LoadedModels(), Kept(tmp_path))
        == first
    )
    with pytest.raises(AssertionError, match="measured again"):
        measure_matrix(chosen, readers, 1, study.train_cache, LoadedModels(), Kept(tmp_path))


def test_kept_loss_is_of_the_models_own_lambda(
    runs: list[Path],
    readers: dict[int, LevelReader],
    study: TinyStudy,
    tmp_path: Path,
) -> None:
    class WithLargerLambda(LoadedModels):
        def info(self, run: str | Path) -> RunInfo:
            return dataclasses.replace(super().info(run), lmbda=10.0)

    first, second = (
        measure_matrix(runs[:1], readers, 1, study.train_cache, models, Kept(tmp_path))
        for models in (LoadedModels(), WithLargerLambda())
    )
    for before, after in zip(first.entries[0], second.entries[0], strict=True):
        assert after.mse == before.mse
        assert after.loss == pytest.approx(after.mse + 10 * after.estimated_bpp)


def test_models_that_are_missing_or_not_trained_alike_are_named(
    runs: list[Path], readers: dict[int, LevelReader], study: TinyStudy, tmp_path: Path
) -> None:
    train(study, tmp_path, "--level", "1", "--epochs", "2", "--lambda", "0.1")
    (other,) = find_runs(tmp_path)
    folders = [runs[0], other.folder]
    found = measure_matrix(folders, readers, 1, study.train_cache, LoadedModels(), Kept(None))
    assert found.specific is None
    assert found.random is None
    assert "no model of level 3: run train-level --level 3" in found.notes
    assert "no model of random levels: run train-level --level random" in found.notes
    assert "not trained alike in lambda: level 0: 0.001, level 1: 0.1" in found.notes
    assert (
        "not trained alike in steps: level 0: 1 epochs of batches of 4, "
        "level 1: 2 epochs of batches of 4"
    ) in found.notes
    assert not [note for note in found.notes if "distortion" in note or "train cache" in note]


def test_models_of_another_distortion_or_train_cache_are_named(
    runs: list[Path],
    readers: dict[int, LevelReader],
    study: TinyStudy,
    tmp_path: Path,
) -> None:
    weighted = "training.distortion=channel_weighted"
    train(study, tmp_path, "--level", "1", "--epochs", "1", "--set", weighted)
    (other,) = find_runs(tmp_path)
    folders = [runs[0], other.folder]
    found = measure_matrix(folders, readers, 1, study.train_cache, LoadedModels(), Kept(None))
    assert (
        "not trained alike in distortion: level 0: mse, level 1: channel_weighted by variance"
    ) in found.notes
    assert not [note for note in found.notes if "train cache" in note]

    class OfAnotherCache(LoadedModels):
        def info(self, run: str | Path) -> RunInfo:
            info = super().info(run)
            is_other = run == other.folder
            return dataclasses.replace(info, cache_fingerprint="f" * 64) if is_other else info

    found = measure_matrix(folders, readers, 1, study.train_cache, OfAnotherCache(), Kept(None))
    (note,) = [note for note in found.notes if "train cache" in note]
    assert note.startswith("not trained alike in train cache: level 0: ")
    assert note.endswith(", level 1: ffffffffffff")


def test_entries_of_ones_own_codec_are_kept_for_its_code_and_of_ours_as_ever(
    runs: list[Path], readers: dict[int, LevelReader], study: TinyStudy, tmp_path: Path
) -> None:
    class WithOptions(LoadedModels):
        def __init__(self, kernel: int) -> None:
            super().__init__()
            self.model = ModelConfig(name="own_absent:Codec", options={"kernel": kernel})

        def info(self, run: str | Path) -> RunInfo:
            info = super().info(run)
            config = info.config.model_copy(update={"model": self.model})
            return dataclasses.replace(info, config=config)

    kept, level = Kept(tmp_path), {4: readers[4]}
    for number, models in enumerate((LoadedModels(), WithOptions(3), WithOptions(5)), start=1):
        measure_matrix([runs[4]], level, 1, study.train_cache, models, kept)
        assert len(list(tmp_path.iterdir())) == number


def test_without_a_train_cache_there_is_no_matrix(
    runs: list[Path], readers: dict[int, LevelReader], tmp_path: Path
) -> None:
    with pytest.raises(CacheError, match="run extract-features --split train"):
        measure_matrix(runs, readers, 1, tmp_path / "train", LoadedModels(), Kept(None))


def test_runs_that_see_the_coarser_level_are_no_rows_and_a_line_says_so() -> None:
    alone = Candidate(folder=Path("a"), level=2, lmbda=0.1, best_validation_loss=1.0)
    seeing = dataclasses.replace(alone, folder=Path("b"), level=1, context=alone)
    assert matrix_runs([alone, seeing], [], LoadedModels()) == (alone.folder,)
    (line,) = left_out([alone, seeing])
    assert line.startswith("runs of level 1 that see the coarser level are left out")
    assert left_out([alone]) == ()


def test_rows_are_of_the_lambda_that_the_random_model_has(runs: list[Path]) -> None:
    def candidate(level: int, lmbda: float, folder: Path) -> Candidate:
        name = "factorized_prior_specific_level"
        return Candidate(
            folder=folder, level=level, lmbda=lmbda, best_validation_loss=1, model=name
        )

    models = LoadedModels()
    special = [candidate(level, 0.001, runs[level]) for level in (1, 0)]
    others = [
        candidate(level, lmbda, Path(f"run_{level}_{lmbda}"))
        for level in range(3)
        for lmbda in (0.01, 0.1, 1.0)
    ]
    assert matrix_runs([*special, *others], [runs[5]], models) == (runs[0], runs[1], runs[5])
    middle = tuple(Path(f"run_{level}_0.1") for level in range(3))
    assert matrix_runs([*special, *others], [], models) == middle
    assert matrix_runs([], [runs[5]], models) == (runs[5],)
    plan = tuple(
        PlannedLevel(level=level, learner=special[0].model, lmbda=lmbda)
        for level, lmbda in enumerate((0.1, 0.01, 1.0))
    )
    planned = [
        dataclasses.replace(each, plan=plan)
        for each in others
        if (each.level < 2) == (each.lmbda < 1.0)
    ]
    assert matrix_runs(planned, [], models) == tuple(
        Path(f"run_{each.level}_{each.lmbda}") for each in plan
    )
    assert matrix_runs([], [], models) == ()


def test_multiply_accumulates_are_those_of_the_convolutions() -> None:
    # 5x5 convolutions of stride 2, each with a GDN (a 1x1 convolution) behind it but the last.
    widths = [NUM_CHANNELS, 8, 8, 8, 12]
    expected = 0.0
    for stage in range(4):
        share = 1 / 4 ** (stage + 1)  # output positions per input position
        expected += 25 * widths[stage] * widths[stage + 1] * share
        expected += widths[stage + 1] ** 2 * share if stage < 3 else 0
    cost = model_cost(ready_codec())
    assert cost.encoder_macs_per_position == pytest.approx(expected)
    # The mirror image: GDN stands after each upsampling but the last.
    expected = 0.0
    for stage in range(4):
        share = 1 / 4 ** (stage + 1)  # input positions of the transposed convolution
        expected += 25 * widths[stage] * widths[stage + 1] * share
        expected += widths[stage] ** 2 * 4 * share if stage > 0 else 0
    assert cost.decoder_macs_per_position == pytest.approx(expected)


@pytest.mark.parametrize("name", HYPERPRIORS)
def test_hyperprior_costs_more_than_its_transforms(name: str) -> None:
    plain, cost = model_cost(ready_codec()), model_cost(ready_codec(name))
    assert cost.encoder_macs_per_position > plain.encoder_macs_per_position
    assert cost.decoder_macs_per_position > plain.decoder_macs_per_position
    assert cost.parameters == sum(each.numel() for each in ready_codec(name).parameters())
    assert cost.storage_bytes == 4 * (cost.parameters + 2 * NUM_CHANNELS)
