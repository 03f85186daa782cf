"""A data set format of one's own, by `package.module:function`, from listing to a stale cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs.config_files import load_config
from configs.errors import BadImageError, CacheError, ConfigError, MissingDataError
from configs.schema.data import FORMAT_NAMES, DataConfig, SplitConfig
from data.cache.manifest import Manifest
from data.images.image_sets import FORMATS, load_images
from data.images.listing import list_files
from extract.detector.freshness import refuse_stale_cache
from tests.support.datasets import save_image
from tests.support.extraction import must_extract, write_config
from tests.support.pages import ROOT, blocks_of
from tests.support.tiny_study import save_detector

# Every line of a list: a file, then one box; boxes of class `thing`, ids of the data set's own.
MODULE = """
from pathlib import Path

from configs.errors import BadImageError
from data.images.files import image_size_hw
from data.images.labels import LabelledBox, make_record, skip_or_raise


def read(source, skipped):
    records = []
    lines = Path(source.settings.annotations).read_text().splitlines()
    for position, line in enumerate(lines):
        name, number, *box = line.split(",")
        file = source.image_folder() / name
        try:
            size_hw = image_size_hw(file)
        except BadImageError as error:
            skip_or_raise(error, skipped, position)
            continue
        boxes = [LabelledBox(xyxy=tuple(map(float, box)), category_id=1)]
        records.append(
            make_record(image_id=int(number), file=str(file), size_hw=size_hw, boxes=boxes)
        )
    return records, {1: "thing"}
"""
LINES = "b.png,70,2,3,40,30\na.png,30,1,1,20,20\n"
YAML = """
data:
  name: own
  format: {format}
  splits: {{val: {{images: images, annotations: boxes.csv}}}}
detector: {{builder: fasterrcnn_mobilenet_v2_fpn, checkpoint: DETECTOR, min_size: 64, max_size: 96}}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> str:
    """The name of a module in the working directory, which also holds two images and their boxes.

    Its name is new in each test: a module is imported once.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        save_image(tmp_path / "images" / name, 96, 64)
    Path("boxes.csv").write_text(LINES)
    name = f"own_format_{abs(hash(request.node.nodeid))}"
    Path(f"{name}.py").write_text(MODULE)
    return name


def data_of(format: str) -> DataConfig:
    split = SplitConfig(images="images", annotations="boxes.csv")
    return DataConfig(name="own", format=format, splits={"val": split})


def test_names_of_the_settings_are_those_of_the_formats() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES


def test_own_format_gives_images_ids_and_boxes_as_it_says(module: str) -> None:
    images = load_images(data_of(f"{module}:read"), "val")
    assert [record.image_id for record in images.records] == [70, 30]
    assert images.records[0].boxes_xyxy.tolist() == [[2, 3, 40, 30]]
    assert images.categories == {1: "thing"}
    listed = list_files(data_of(f"{module}:read"), "val")
    assert [image.image_id for image in listed] == [70, 30]


def test_bad_image_of_an_own_format_is_an_error_or_left_out(module: str) -> None:
    Path("images/b.png").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"b.png: not an image that can be read"):
        load_images(data_of(f"{module}:read"), "val")
    images = load_images(data_of(f"{module}:read"), "val", skip_bad=True)
    assert [record.image_id for record in images.records] == [30]
    assert [bad.position for bad in images.skipped] == [0]


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_turned_image_of_an_own_format_follows_the_setting(module: str, exif: str) -> None:
    def save_turned(name: str, orientation: int) -> None:
        tags = Image.Exif()
        tags[0x0112] = orientation
        with Image.open(f"images/{name}.png") as image:
            image.save(f"images/{name}.png", exif=tags)

    save_turned("b", 3)  # of the same size either way
    Path(f"{module}.py").write_text(MODULE)
    data = data_of(f"{module}:read").model_copy(update={"exif": exif})
    first, second = load_images(data, "val").records
    assert first.file == f"images/b.png#orientation={3 if exif == 'apply' else 1}"
    assert second.file == "images/a.png"
    save_turned("a", 8)  # MODULE takes the upright size, whatever the setting
    if exif == "ignore":
        with pytest.raises(BadImageError, match=r"is 64x96 px, the data set says 96x64"):
            load_images(data, "val")
        (record,) = load_images(data, "val", skip_bad=True).records
        assert record.image_id == 70
    else:
        assert load_images(data, "val").records[1].height == 96


@pytest.mark.parametrize("good", ["ac", "", "b"])
def test_listing_has_bad_images_at_their_places(module: str, good: str) -> None:
    Path("boxes.csv").write_text("".join(f"{name}/1.png,{ord(name)},1,1,9,9\n" for name in "abc"))
    for name in good:
        save_image(Path(f"images/{name}/1.png"), 96, 64)
    listed = list_files(data_of(f"{module}:read"), "val")
    assert [(image.name, image.image_id) for image in listed] == [
        (f"{name}/1.png", ord(name) if name in good else None) for name in "abc"
    ]


def test_format_that_the_page_shows_leaves_out_a_bad_image(module: str) -> None:
    (code,) = (
        block.code
        for block in blocks_of(ROOT / "docs/how-to/own-code.md", "python")
        if block.title == "my_formats.py"
    )
    Path(f"{module}.py").write_text(code)
    Path("boxes.csv").write_text("b.png,car,2,3,40,30\na.png,car,1,1,20,20\n")
    Path("images/a.png").write_bytes(b"broken")
    images = load_images(data_of(f"{module}:read_csv"), "val", skip_bad=True)
    assert [(record.image_id, Path(record.file).name) for record in images.records] == [
        (2, "b.png")
    ]
    assert [bad.position for bad in images.skipped] == [0]
    with pytest.raises(BadImageError, match=r"a.png: not an image that can be read"):
        load_images(data_of(f"{module}:read_csv"), "val")


@pytest.mark.parametrize(
    ("error", "told", "kind"),
    [
        (
            "KeyError('a')",
            r"'.*:read' fails \(data.splits.val\): KeyError: 'a' \(.*\)$",
            ConfigError,
        ),
        (
            "FileNotFoundError('a.csv')",
            r"misses a file \(.*val\): a.csv$",
            MissingDataError,
        ),
        ("MissingDataError('a.csv: is gone')", "^a.csv: is gone$", MissingDataError),
    ],
)
def test_what_an_own_format_raises_is_one_line(
    module: str, error: str, told: str, kind: type[ConfigError]
) -> None:
    Path(f"{module}.py").write_text(
        "from configs.errors import MissingDataError\n\n\n"
        f"def read(source, skipped):\n    raise {error}\n"
    )
    with pytest.raises(ConfigError, match=told) as raised:
        load_images(data_of(f"{module}:read"), "val")
    assert type(raised.value) is kind


def test_cache_of_an_own_format_keeps_its_ids_and_grows_stale_with_its_list(
    module: str,
) -> None:
    Path("images/bad.png").write_bytes(b"broken")
    save_image(Path("images/beyond.png"), 96, 64)
    lines = ["bad.png,90,1,1,20,20", *LINES.split(), "beyond.png,10,1,1,20,20"]
    Path("boxes.csv").write_text("\n".join(lines))
    config = write_config(
        Path("own.yaml"), YAML.format(format=f"{module}:read"), save_detector(Path("detector.pth"))
    )
    options = ("--skip-bad-images", "--limit", "3")
    cache = must_extract(config, Path("features"), *options, split="val")
    assert [sample.image_id for sample in Manifest.load(cache).samples] == [70, 30]
    settings = load_config(str(config))
    refuse_stale_cache(cache, "val", settings)
    for image in Path("images").iterdir():
        image.unlink()
    refuse_stale_cache(cache, "val", settings)  # as on a machine that has the list alone
    lines[1:3] = reversed(lines[1:3])
    Path("boxes.csv").write_text("\n".join(lines))
    with pytest.raises(CacheError, match=r"image list: .*b.png there, .*a.png now"):
        refuse_stale_cache(cache, "val", settings)
    Path("boxes.csv").unlink()
    refuse_stale_cache(cache, "val", settings)  # as on a machine without the images


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[]", "does not return \\(records, categories\\)"),
        ("(['a.png'], {})", "returns a str where an ImageRecord belongs"),
        ("(2 * read_all(source, None)[0], {1: 'thing'})", "returns two images with the id 70"),
        ("(read_all(source, None)[0], {})", "returns boxes of the category 1, which has no name"),
    ],
)
def test_what_an_own_format_returns_is_checked(module: str, returned: str, message: str) -> None:
    text = MODULE.replace("def read(", "def read_all(")
    Path(f"{module}.py").write_text(f"{text}\ndef read(source, skipped):\n    return {returned}\n")
    with pytest.raises(ConfigError, match=f"data.format: '{module}:read' {message}"):
        load_images(data_of(f"{module}:read"), "val")


def test_format_that_is_not_on_this_machine_is_told_from_a_mistake(module: str) -> None:
    with pytest.raises(MissingDataError, match=r"'own_absent:read' cannot be imported"):
        list_files(data_of("own_absent:read"), "val")


def test_key_that_no_own_format_reads_is_refused(module: str) -> None:
    split = SplitConfig(images="images", num_scenes=3)
    data = DataConfig(name="own", format=f"{module}:read", splits={"val": split})
    with pytest.raises(ConfigError, match=r"num_scenes: not for format .*: remove it"):
        load_images(data, "val")
