"""Stale caches are refused; what is moved, limited or incomparable is not stale."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from configs.config_files import load_config
from configs.errors import CacheError
from configs.schema.data import DetectorConfig
from data.cache.manifest import Manifest
from extract.detector.freshness import refuse_stale_cache
from extract.detector.weights import weights_file
from tests.support.extraction import error_of
from tests.support.photos import READERS, Photos, photos, write_lists

__all__ = ["photos"]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_moved_data_set_is_accepted(photos: Photos, tmp_path: Path, name: str) -> None:
    shutil.copytree(photos.root / "images", tmp_path / "elsewhere/images")
    moved = write_lists(tmp_path / "elsewhere", [3, 1, 2], [4, 5])
    result = photos.run(name, config=photos.configure(tmp_path / "c.yaml", moved))
    assert result.exit_code == 0, result.output
    assert "could not be compared" not in result.output


@pytest.mark.parametrize("name", READERS)
def test_machine_without_data_set_and_checkpoint_goes_on_and_says_what_was_not_compared(
    photos: Photos, tmp_path: Path, name: str
) -> None:
    absent = tmp_path / "not_here"
    config = photos.configure(tmp_path / "c.yaml", absent, absent / "detector.pth")
    result = photos.run(name, config=config)
    assert result.exit_code == 0, result.output
    made_by = Manifest.load(photos.features / "val").detector["weights_sha256"]
    cache = photos.features / "val"
    assert (
        f"INFO {cache}: its detector weights {made_by[:12]} ({photos.detector}) could not be "
        f"compared: {absent / 'detector.pth'} is not on this machine"
    ) in result.output
    assert (
        f"INFO {cache}: its images could not be compared with the data set: "
        f"data.splits.val.annotations: {absent / 'val.json'} is not a file"
    ) in result.output


def test_cache_of_the_first_images_is_read_without_a_limit_but_those_are_compared(
    photos: Photos, tmp_path: Path
) -> None:
    features = photos.must_extract(tmp_path / "features", "--limit", "2")
    assert Manifest.load(features / "train").image_limit == 2
    for name in READERS:
        result = photos.run(name, features=features)
        assert result.exit_code == 0, result.output
    config = photos.configure(tmp_path / "c.yaml", write_lists(tmp_path, [3, 6, 1], [4, 5]))
    error = error_of(photos.run("training", config=config, features=features))
    assert "1.png there, 6.png now" in error


def test_dtype_and_container_that_an_option_chose_need_not_be_named_again(
    photos: Photos, tmp_path: Path
) -> None:
    options = ("--dtype", "float32", "--container", "hdf5")
    features = photos.must_extract(tmp_path / "features", *options)
    for name in READERS:
        result = photos.run(name, features=features)
        assert result.exit_code == 0, result.output
    error = error_of(photos.run("training", "--set", "cache.dtype=float16", features=features))
    assert "(dtype: 'float32' there, 'float16' now)" in error


def test_the_default_configuration_names_neither_dtype_nor_container() -> None:
    assert not {"dtype", "container"} & load_config().cache.model_fields_set


def test_same_weights_in_another_file_are_accepted(photos: Photos, tmp_path: Path) -> None:
    state = torch.load(photos.detector, weights_only=True)
    torch.save({"model": state, "epoch": 3}, tmp_path / "wrapped.pth")
    result = photos.run("training", "--detection_checkpoint", "wrapped.pth")
    assert result.exit_code == 0, result.output


def test_sizes_left_to_the_builder_are_compared_with_its_own(
    photos: Photos, tmp_path: Path
) -> None:
    own = ("--set", "detector.min_size=null", "--set", "detector.max_size=null")
    error = error_of(photos.run("training", *own))
    assert "(detector max_size: 96 there, 533 now)" in error
    named = ("--set", "detector.min_size=320", "--set", "detector.max_size=533")
    features = photos.must_extract(tmp_path / "features", *named)
    result = photos.run("training", *own, features=features)
    assert result.exit_code == 0, result.output


def test_random_weights_are_built_to_be_compared(photos: Photos, tmp_path: Path) -> None:
    options = ("--set", "detector.checkpoint=null", "--set", "detector.weights=random")
    error = error_of(photos.run("training", *options))
    assert "(random): name the checkpoint" in error
    features = photos.must_extract(tmp_path / "features", *options)
    result = photos.run("training", *options, features=features)
    assert result.exit_code == 0, result.output


FACTORY = """
from pathlib import Path

from extract.detector.builders import fasterrcnn_mobilenet_v2_fpn


def build():
    mean = float(Path("mean.txt").read_text())
    return fasterrcnn_mobilenet_v2_fpn(min_size=64, max_size=96, image_mean=[mean] * 3)
"""


def test_own_factory_that_normalises_anew_is_refused_and_one_that_is_not_here_is_logged(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("factory_of_this_test.py").write_text(FACTORY)
    Path("mean.txt").write_text("0.5")
    options = (
        "--set", "detector.builder=factory_of_this_test:build",
        "--set", "detector.checkpoint=null",
    )  # fmt: skip
    features = photos.must_extract(tmp_path / "features", *options)
    assert photos.run("training", *options, features=features).exit_code == 0
    Path("mean.txt").write_text("0.25")
    error = error_of(photos.run("training", *options, features=features))
    assert "(detector image_mean: [0.5, 0.5, 0.5] there, [0.25, 0.25, 0.25] now)" in error
    Path("mean.txt").unlink()
    result = photos.run("training", *options, features=features)
    assert result.exit_code == 0, result.output
    told = f"{features / 'val'}: its detector could not be compared: detector.builder: "
    assert re.search(re.escape(told) + r".*\[Errno 2\] ", result.output)


def test_weights_file_is_where_the_weights_are_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    named = weights_file(DetectorConfig(builder="fasterrcnn_resnet50_fpn"))
    assert named == tmp_path / "hub/checkpoints/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
    assert weights_file(DetectorConfig(checkpoint="a/b.pth")) == Path("a/b.pth")
    builtin = weights_file(DetectorConfig(checkpoint="builtin:scenes"))
    assert builtin is not None and builtin.is_file()
    assert weights_file(DetectorConfig(weights="random")) is None
    assert weights_file(DetectorConfig(builder="mine:build")) is None


@pytest.mark.parametrize(
    ("orientation", "made", "others"),
    [(6, "apply", ("ignore", "refuse")), (1, "ignore", ("apply", "refuse"))],
)
def test_cache_of_turned_images_is_refused_under_another_exif_setting(
    photos: Photos, tmp_path: Path, orientation: int, made: str, others: tuple[str, ...]
) -> None:
    shutil.copytree(photos.features / "val", tmp_path / "val")
    path = tmp_path / "val/manifest.json"
    path.write_text(path.read_text().replace('4.png"', f'4.png#orientation={orientation}"'))
    refuse_stale_cache(
        tmp_path / "val", "val", load_config(str(photos.config), (f"data.exif={made}",))
    )
    for other in others:
        config = load_config(str(photos.config), (f"data.exif={other}",))
        with pytest.raises(CacheError, match=rf"\(exif: '{made}' there, '{other}' now\)"):
            refuse_stale_cache(tmp_path / "val", "val", config)


@pytest.mark.parametrize("exif", ["apply", "ignore", "refuse"])
def test_exif_setting_makes_no_difference_where_no_image_is_turned(
    photos: Photos, exif: str
) -> None:
    config = load_config(str(photos.config), (f"data.exif={exif}",))
    refuse_stale_cache(photos.features / "val", "val", config)
