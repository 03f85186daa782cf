"""YAML and --set in, Config out; what goes wrong is in test_config_errors.py."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.config_files import (
    DEFAULT_NAME,
    PACKAGED_DIR,
    dump_config,
    find_config,
    load_config,
    packaged_names,
)
from configs.errors import ConfigError
from configs.schema.config import Config

ROOT = Path(__file__).parents[2]
DEFAULT_FILE = f"{DEFAULT_NAME}.yaml"

FULL_EXAMPLE = """\
data:
  name: pennfudan                    # caches land in features/<name>/<split> unless --features says otherwise
  format: coco                       # coco | kitti | voc | folder | scenes
  splits:
    train: {images: ../shared/datasets/pennfudan/images, annotations: ../shared/datasets/pennfudan/annotations/train.json}
    val:   {images: ../shared/datasets/pennfudan/images, annotations: ../shared/datasets/pennfudan/annotations/val.json}
detector:
  builder: fasterrcnn_mobilenet_v2_fpn
  checkpoint: ../shared/detectors/pedestrian.pth
  min_size: 320
  max_size: 533
cache:
  container: zarr                    # zarr | hdf5
  dtype: float16                     # float16 | float32
  shard_megabytes: 128
model:
  name: factorized_prior_specific_level
  n_hidden: 128
  n_channels: 192
  fpn_channels_per_level: 256
training:
  batch_size: 8
  epochs: 100
  learning_rate: 5.0e-5
  lambda: 0.001
  crop: 64                           # feature positions; maps smaller than that are used whole; null: whole maps
  lr_schedule: {enabled: true, factor: 0.5, patience: 8, min_lr: 1.0e-6}
  early_stopping: {enabled: true, patience: 20, min_delta: 1.0e-4}
  save_dir: checkpoints/fpn_specific_level_compression
  seed: 0
validation: {interval: 1, num_samples: 4}
"""  # noqa: E501


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", packaged_names())
def test_every_packaged_configuration_loads_by_name_and_by_path(name: str) -> None:
    assert load_config(name) == load_config(str(PACKAGED_DIR / f"{name}.yaml"))


def test_the_packaged_configurations_are_the_documented_ones() -> None:
    assert packaged_names() == sorted(
        [
            DEFAULT_NAME, "coarse_to_fine", "coco", "fast", "folder", "kitti", "per_level",
            "quickstart", "train_detector", "voc",
        ]
    )  # fmt: skip


@pytest.mark.parametrize("name", ["coco", "kitti", "voc", "folder"])
def test_starting_points_are_named_by_their_format(name: str) -> None:
    config = load_config(name)
    assert config.data.format == name
    assert set(config.data.splits) == {"train", "val"}


def test_no_configuration_is_the_default_file_and_both_are_the_schema_defaults() -> None:
    assert load_config() == load_config(DEFAULT_NAME) == Config()


def test_defaults_of_model_and_training_are_the_published_ones() -> None:
    config = load_config()
    assert config.model.model_dump() == {
        "name": "factorized_prior_specific_level",
        "stages": 4,
        "n_hidden": 128,
        "n_channels": 192,
        "fpn_channels_per_level": 256,
        "options": {},
        "context": None,
        "pyramid": None,
        "fast_cpu": "auto",
    }
    training = config.training
    assert (training.batch_size, training.epochs) == (8, 100)
    assert (training.learning_rate, training.lmbda) == (5e-5, 0.001)
    schedule, stopping = training.lr_schedule, training.early_stopping
    assert (schedule.patience, schedule.factor, schedule.min_lr) == (8, 0.5, 1e-6)
    assert (stopping.patience, stopping.min_delta) == (20, 1e-4)
    assert (training.optimizer.name, training.optimizer.betas) == ("adam", (0.9, 0.999))
    assert training.optimizer.clip_max_norm == 1.0


def test_full_example_loads_and_keeps_each_value(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FULL_EXAMPLE))
    assert config.data.splits["val"].annotations is not None
    assert config.data.splits["val"].annotations.endswith("pennfudan/annotations/val.json")
    assert (config.detector.min_size, config.detector.max_size) == (320, 533)
    assert config.detector.checkpoint == "../shared/detectors/pedestrian.pth"
    assert config.training == Config().training


def test_a_misspelt_distortion_is_told_its_name_and_ones_own_is_taken() -> None:
    with pytest.raises(ConfigError, match=r"'objct_weighted' .* mean 'object_weighted'\?"):
        load_config(overrides=["training.distortion=objct_weighted"])
    config = load_config(overrides=["training.distortion=own.errors:huber"])
    assert config.training.distortion == "own.errors:huber"


@pytest.mark.parametrize("text", ["5e-5", "5.0e-5", "5E-05", "0.00005", ".5e-4"])
def test_bare_scientific_notation_is_a_number(tmp_path: Path, text: str) -> None:
    assert load_config(overrides=[f"training.learning_rate={text}"]).training.learning_rate == 5e-5
    path = write(tmp_path, f"training: {{learning_rate: {text}}}\n")
    assert load_config(path).training.learning_rate == 5e-5


def test_default_file_has_the_line_that_the_loop_over_lambdas_edits() -> None:
    text = (PACKAGED_DIR / DEFAULT_FILE).read_text(encoding="utf-8")
    assert len(re.findall(r"lambda: 0\.001\b", text)) == 1


def test_sed_on_the_default_file_changes_lambda_and_nothing_else(tmp_path: Path) -> None:
    temp_config = tmp_path / "temp_config.yaml"
    script = f"sed 's/lambda: 0.001/lambda: 0.0005/' configs/{DEFAULT_FILE} > '{temp_config}'"
    subprocess.run(["bash", "-c", script], cwd=ROOT, check=True)
    edited, default = load_config(str(temp_config)), load_config()
    assert edited.training.lmbda == 0.0005
    assert edited.training.model_copy(update={"lmbda": 0.001}) == default.training
    assert edited.model_copy(update={"training": default.training}) == default


def test_a_file_names_only_what_differs(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "training: {epochs: 3}\n"))
    assert config.training == Config().training.model_copy(update={"epochs": 3})
    assert config.data == Config().data


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "# nothing\n")) == Config()


def test_set_wins_over_the_file_and_the_last_set_wins(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {batch_size: 2}\n")
    overrides = ["training.batch_size=4", "training.batch_size=16", "training.crop=null"]
    training = load_config(path, overrides).training
    assert (training.batch_size, training.crop) == (16, None)


def test_set_reaches_lambda_and_splits() -> None:
    config = load_config(None, ["training.lambda=5e-4", "data.splits.train.num_scenes=7"])
    assert config.training.lmbda == 5e-4
    assert config.data.splits["train"].num_scenes == 7


def test_a_file_in_the_working_directory_comes_before_a_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("coco") == find_config("configs/coco.yaml") == PACKAGED_DIR / "coco.yaml"
    (tmp_path / "coco").write_text("training: {epochs: 2}\n")
    assert find_config("coco") == Path("coco")


positive = st.integers(1, 10**6)
small = st.floats(1e-12, 1e3)
sections = st.fixed_dictionaries(
    {},
    optional={
        "cache": st.fixed_dictionaries(
            {},
            optional={
                "container": st.sampled_from(["zarr", "hdf5"]),
                "dtype": st.sampled_from(["float16", "float32"]),
                "shard_megabytes": small,
                "levels": st.none() | st.lists(st.integers(0, 9), min_size=1, max_size=5),
            },
        ),
        "training": st.fixed_dictionaries(
            {},
            optional={
                "batch_size": positive,
                "learning_rate": small,
                "lambda": st.floats(0, 1e6),
                "crop": st.none() | positive,
                "save_dir": st.text(
                    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1
                ),
                "optimizer": st.fixed_dictionaries(
                    {}, optional={"clip_max_norm": st.none() | small, "aux_learning_rate": small}
                ),
                "lr_schedule": st.fixed_dictionaries(
                    {}, optional={"enabled": st.booleans(), "factor": st.floats(0.01, 0.99)}
                ),
            },
        ),
    },
)


def test_later_configurations_are_read_over_earlier_ones(tmp_path: Path) -> None:
    mine = write(
        tmp_path, "training: {epochs: 3, lr_schedule: {patience: 2}}\ndata: {name: mine}\n"
    )
    config = load_config(f"{mine},fast", ("training.seed=5",))
    assert (config.data.name, config.training.seed) == ("mine", 5)
    assert config.training.epochs == load_config("fast").training.epochs != 3
    assert (config.training.lr_schedule.name, config.training.lr_schedule.patience) == ("cosine", 2)


@settings(max_examples=60, deadline=None)
@given(raw=sections)
def test_a_dumped_configuration_loads_back_unchanged(raw: dict[str, object]) -> None:
    config = Config.model_validate(raw)
    with tempfile.TemporaryDirectory() as folder:
        assert load_config(write(Path(folder), dump_config(config))) == config
