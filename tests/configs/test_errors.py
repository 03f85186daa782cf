"""Every mistake in a configuration is one exact line: what, where, and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.config_files import load_config
from configs.errors import ConfigError

BAD_FILES = [
    (
        "training: {batchsize: 3}",
        "mine.yaml: unknown key 'training.batchsize': did you mean 'batch_size'?",
    ),
    (
        "trainning: {}",
        "mine.yaml: unknown key 'trainning': did you mean 'training'?",
    ),
    (
        "cache: {zzz: 1}",
        "mine.yaml: unknown key 'cache.zzz'; valid here are container, dtype, shard_megabytes, "
        "levels, verify, crop",
    ),
    (
        "data: {splits: {train: {image: x}}}",
        "mine.yaml: unknown key 'data.splits.train.image': did you mean 'images'?",
    ),
    (
        "levels: {0: {trainings: {lambda: 0.1}}}",
        "mine.yaml: unknown key 'levels.0.trainings': did you mean 'training'?",
    ),
    (
        "levels: {0: {detector: {min_size: 3}}}",
        "mine.yaml: unknown key 'levels.0.detector'; valid here are model, training, validation",
    ),
    (
        "levels: {0: {training: {lambda: -1}}}",
        "mine.yaml: levels.0.training.lambda: -1 is not allowed: Input should be greater than or "
        "equal to 0",
    ),
    (
        "levels: {all: {training: {lambda: 1}}}",
        "mine.yaml: levels.all: 'all' is not allowed: Input should be a valid integer",
    ),
    (
        "levels: {0: {}, '0': {}}",
        "mine.yaml: configuration: levels.0 is given twice: remove one",
    ),
    (
        "levels: {1: {model: {options: {kernel: 5}}}}",
        "mine.yaml: levels.1.model.options: factorized_prior_specific_level has no options, as a "
        "codec of your own may: remove them",
    ),
    (
        "training: {batch_size: many}",
        "mine.yaml: training.batch_size: 'many' is not allowed: Input should be a valid integer",
    ),
    (
        "training: {batch_size: 0}",
        "mine.yaml: training.batch_size: 0 is not allowed: Input should be greater than 0",
    ),
    (
        "training: {epochs: true}",
        "mine.yaml: training.epochs: True is not allowed: Input should be a valid integer",
    ),
    (
        "training: {lambda: '0.1'}",
        "mine.yaml: training.lambda: '0.1' is not allowed: Input should be a valid number",
    ),
    (
        "training: {lambda: -1.0}",
        "mine.yaml: training.lambda: -1.0 is not allowed: "
        "Input should be greater than or equal to 0",
    ),
    (
        "training: {lr_schedule: {factor: 2.0}}",
        "mine.yaml: training.lr_schedule.factor: 2.0 is not allowed: Input should be less than 1",
    ),
    (
        "data: {format: coc}",
        "mine.yaml: data.format: 'coc' is not allowed: "
        "Input should be 'coco', 'kitti', 'voc', 'folder', 'scenes' or your own "
        "package.module:name: did you mean 'coco'?",
    ),
    (
        "cache: {levels: [0, -1]}",
        "mine.yaml: cache.levels.1: -1 is not allowed: Input should be greater than or equal to 0",
    ),
    (
        "detector: {checkpoint: a.pth, weights: COCO_V1}",
        "mine.yaml: detector: checkpoint and weights exclude each other: name one of them",
    ),
    (
        "training: {epochs: 1, epochs: 2}",
        "mine.yaml: line 1: the key 'epochs' is given twice: remove one",
    ),
    (
        "- 1",
        "mine.yaml: holds [1]: write sections such as `training:` instead",
    ),
    (
        "training: {epochs: 1",
        "mine.yaml: line 2, column 1: not valid YAML: expected ',' or '}', but got '<stream end>'",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES, ids=[text for text, _ in BAD_FILES])
def test_each_mistake_in_a_file_is_one_exact_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_config("mine.yaml")
    assert str(raised.value) == message


BAD_OVERRIDES = [
    (
        "training.batchsize=3",
        "--set training.batchsize=3: unknown key 'training.batchsize': did you mean 'batch_size'?",
    ),
    (
        "training.epochs=1.5",
        "--set training.epochs=1.5: training.epochs: 1.5 is not allowed: "
        "Input should be a valid integer",
    ),
    (
        "foo.bar=1",
        "--set foo.bar=1: unknown key 'foo'; valid here are data, detector, cache, model, "
        "training, validation, detector_training, levels",
    ),
    (
        "levels.0.training.lambdas=0.1",
        "--set levels.0.training.lambdas=0.1: unknown key 'levels.0.training.lambdas': did you "
        "mean 'lambda'?",
    ),
    (
        "trainning.lr_schedule.factor=0.1",
        "--set trainning.lr_schedule.factor=0.1: unknown key 'trainning': did you mean 'training'?",
    ),
    ("training.epochs", "--set training.epochs: write it as section.key=value"),
    ("=3", "--set =3: write it as section.key=value"),
    (
        "training.epochs.x=3",
        "--set training.epochs.x=3: 'epochs' holds a value, not a section",
    ),
]


@pytest.mark.parametrize(("override", "message"), BAD_OVERRIDES, ids=[o for o, _ in BAD_OVERRIDES])
def test_each_mistake_in_an_override_is_one_exact_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(overrides=[override])
    assert str(raised.value) == message


def test_an_unknown_configuration_names_the_nearest_packaged_one() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config("kity")
    assert str(raised.value) == (
        "--config kity: no such file, and no packaged configuration of that name"
        ": did you mean 'kitti'?"
    )
