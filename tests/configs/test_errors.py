"""Every mistake in a configuration is one exact line: what, where, and the nearest valid name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from analyze.cli import analyze_levels
from analyze.streams_cli import compress_features
from configs.config_files import load_config
from configs.errors import BadImageError, CacheError, ConfigError, StoppedError, UserError
from configs.options import run_command
from configs.plain_json import is_finite, parse_json
from extract.cli import extract_features
from extract.detector_cli import train_detector
from train.cli import train_level

COMMANDS = {
    command.name: command
    for command in (
        extract_features, train_detector, train_level, analyze_levels, compress_features
    )
}  # fmt: skip

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
        "mine.yaml: levels: 'all' is not allowed: Input should be a valid integer",
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
        "data: {name: '..'}",
        "mine.yaml: data.name: '..' is not allowed: a folder gets this name: "
        "write a short one, without '/' and not '..'",
    ),
    (
        "data: {splits: {../val: {num_scenes: 3}}}",
        "mine.yaml: data.splits: '../val' is not allowed: a folder gets this name: "
        "write a short one, without '/' and not '..'",
    ),
    (
        "? [a, b]\n: c",
        "mine.yaml: line 1: the key ['a', 'b'] is no text: write a name",
    ),
    (
        "training:\n  epochs: 2024-13-45",
        "mine.yaml: line 2, column 11: not valid YAML: '2024-13-45' is no timestamp",
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


# What PyYAML takes for valid, or fails at in its own way.
ODD = [
    "? {a: 1}\n: c", "? !!seq [1]\n: c", "1: 2", "true: 2", "null: 3", "? 2024-01-01\n: 1",
    "a: !!int x", "a: !!float x", "a: !!bool x", "a: !!timestamp x", "a: !!binary '='",
    f"a: {'9' * 5000}", "[" * 5000, "{a: " * 5000, "&a [*a]", "&a {a: *a}", "<<: 3", "a: \x07",
    "--- a\n--- b", "!!set {a, b}", "!!python/object:os.system {}", "x" * 10**5,
    "training: {epochs: .nan}", "training: {learning_rate: .inf}", "training: &t {epochs: *t}",
    "&a [1,1,1,1,1,1,1,1,1]\n",
]  # fmt: skip
NO_NAMES = ["..", ".", "", "../val", "/etc", "a/b", "a\\b", "a\0b", "a\nb", "x" * 256]


@pytest.mark.parametrize("text", ODD, ids=lambda text: ascii(text[:30]))
def test_odd_yaml_is_one_short_line_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 250
    with pytest.raises(ConfigError, match=r"--set training\.crop="):
        load_config(None, [f"training.crop={text}"])


def test_aliases_that_make_billions_of_values_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"mine\.yaml: its aliases make more than a million values"
    ):
        load_config(str(path))


def test_keys_of_another_mapping_are_merged_in(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data:\n  splits:\n    train: &one {num_scenes: 3, scene_seed: 1}\n"
        "    val: {<<: *one, scene_seed: 2}\n",
        encoding="utf-8",
    )
    val = load_config(str(path)).data.splits["val"]
    assert (val.num_scenes, val.scene_seed) == (3, 2)


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
@pytest.mark.parametrize("key", ["data.name", "data.splits"])
def test_name_that_a_folder_gets_is_one_component_of_a_path(key: str, name: str) -> None:
    value = json.dumps(name if key == "data.name" else {name: {"num_scenes": 3}})
    with pytest.raises(ConfigError, match=f"{key}: .* is not allowed: a folder gets this name"):
        load_config(None, [f"{key}={value}"])


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, "9" * 5000, "{", "", b"\xff{"])
def test_odd_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_finite_number_is_one_that_a_float_can_hold() -> None:
    assert all(map(is_finite, (0, -1, 0.5, 10**300)))
    assert not any(map(is_finite, (10**400, float("nan"), float("inf"), True, "1", None)))


def test_all_json_is_read_in_one_place() -> None:
    """Python's own reader raises RecursionError, too, which nobody expects of it."""
    sources = [
        path
        for package in ("analyze", "configs", "data", "extract", "train")
        for path in (Path(__file__).parents[2] / package).rglob("*.py")
        if "json.load" in path.read_text(encoding="utf-8")
    ]
    assert {path.name for path in sources} == {"plain_json.py"}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_command_shows_what_the_terminal_s_encoding_lacks_with_escapes(encoding: str) -> None:
    @click.command()
    @run_command
    def tell() -> None:
        click.echo("a\udcff \u4e2d")
        click.echo("b\udcff \u4e2d", err=True)
        raise ConfigError("c\udcff: no such file")

    script = CliRunner(charset=encoding).invoke(tell)
    assert script.exit_code == 1
    assert r"a\udcff" in script.output
    assert r"Error: c\udcff: no such file" in script.output


@pytest.mark.parametrize("command", [
    "extract-features", "train-detector", "train-level", "analyze-levels", "compress-features",
])  # fmt: skip
@pytest.mark.parametrize("name", ["..", "../val", ""])
def test_split_on_the_command_line_is_one_component_of_a_path(command: str, name: str) -> None:
    result = CliRunner().invoke(COMMANDS[command], ["--split", name])
    assert result.exit_code == 2
    assert f"{name!r}: a folder gets this name" in result.output


def test_what_a_message_quotes_from_a_file_leaves_it_one_short_line() -> None:
    assert str(UserError("a.json: 'x\ny' is no name")) == "a.json: 'x y' is no name"
    text = str(CacheError(f"a.json: {'x' * 10**6} is no name: write another"))
    assert len(text) < 2000
    assert text.startswith("a.json: xxx")
    assert text.endswith("xxx is no name: write another")


def test_an_error_passes_between_processes_as_it_is() -> None:
    bad = pickle.loads(pickle.dumps(BadImageError("a.jpg: no", file="a.jpg", reason="no")))
    assert isinstance(bad, BadImageError)
    assert (str(bad), bad.file, bad.reason) == ("a.jpg: no", "a.jpg", "no")
    stopped = pickle.loads(pickle.dumps(StoppedError("stopped", 15)))
    assert isinstance(stopped, StoppedError)
    assert (str(stopped), stopped.exit_code) == ("stopped", 143)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "--dry-run"], "--dry-run: is done on this machine alone: leave out --ray"),
        (["--ray", "--verify"], "--verify: is done on this machine alone: leave out --ray"),
        (["--ray-cpus", "2"], "--ray-cpus: is of workers on a cluster: add --ray"),
    ],
)
def test_options_that_contradict_ray_are_one_line(options: list[str], message: str) -> None:
    result = CliRunner().invoke(extract_features, ["--split", "train", *options])
    assert result.exit_code == 1
    assert result.output == f"Error: {message}\n"
