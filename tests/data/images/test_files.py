"""Images that EXIF says are to be turned: sizes, pixels, boxes and names agree, in every format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from configs.errors import BadImageError, ConfigError
from configs.schema.data import DataConfig
from data.images.files import list_images, read_header
from data.images.image_sets import load_images, read_image, read_planned_image
from data.images.records import ImageSet
from tests.support.datasets import one_line, save_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)  # as stored
TURNED_HW = (40, 24)
BOX = [2, 5, 12, 30]  # left, top, right, bottom in the upright image


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def save_turned(path: Path, orientation: int, pixels: NDArray[Any] = PIXELS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif_of(orientation))
    return path


def coco(root: Path, size_hw: tuple[int, int] | None) -> dict[str, str]:
    left, top, right, bottom = BOX
    entry: dict[str, Any] = {"id": 1, "file_name": "a.png"}
    if size_hw is not None:
        entry |= {"height": size_hw[0], "width": size_hw[1]}
    bbox = [left, top, right - left, bottom - top]
    content = {
        "images": [entry],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox}],
        "categories": [{"id": 1, "name": "car"}],
    }
    (root / "coco.json").write_text(json.dumps(content))
    return {"annotations": str(root / "coco.json")}


def voc(root: Path, size_hw: tuple[int, int] | None) -> dict[str, str]:
    left, top, right, bottom = BOX
    size = "" if size_hw is None else f"<height>{size_hw[0]}</height><width>{size_hw[1]}</width>"
    (root / "a.xml").write_text(
        f"<annotation><size>{size}</size><object><name>car</name><bndbox><xmin>{left + 1}</xmin>"
        f"<ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        "</annotation>"
    )
    return {"annotations": str(root)}


def kitti(root: Path, size_hw: tuple[int, int] | None) -> dict[str, str]:
    (root / "a.txt").write_text(f"Car 0 0 0 {' '.join(map(str, BOX))}\n")
    return {"annotations": str(root)}


def folder(root: Path, size_hw: tuple[int, int] | None) -> dict[str, str]:
    return {}


FORMATS: dict[str, Callable[[Path, tuple[int, int] | None], dict[str, str]]] = {
    "coco": coco, "voc": voc, "kitti": kitti, "folder": folder,
}  # fmt: skip


def load(
    root: Path, format: str, *, size_hw: tuple[int, int] | None = None, skip_bad: bool = False,
    **settings: str,
) -> ImageSet:  # fmt: skip
    split = {"images": str(root / "images"), **FORMATS[format](root, size_hw)}
    data = {"name": "tiny", "format": format, "splits": {"val": split}, **settings}
    return load_images(DataConfig.model_validate(data), "val", skip_bad=skip_bad)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_turned_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    path = save_turned(tmp_path / "images/a.png", orientation)
    (record,) = load(tmp_path, "folder").records
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(record.file), expected)
    assert (record.height, record.width) == expected.shape[:2]
    assert record.file == (f"{path}#orientation={orientation}" if orientation > 1 else str(path))


@pytest.mark.parametrize("format", FORMATS)
def test_turned_image_is_seen_upright_with_its_boxes_in_every_format(
    tmp_path: Path, format: str
) -> None:
    save_turned(tmp_path / "images/a.png", 6)
    images = load(tmp_path, format, size_hw=TURNED_HW)
    (record,) = images.records
    assert (record.height, record.width) == TURNED_HW
    upright = np.rot90(PIXELS, -1)
    assert np.array_equal(read_planned_image(record.file, TURNED_HW), upright)
    if images.categories:
        assert record.boxes_xyxy.tolist() == [BOX]


@pytest.mark.parametrize("format", FORMATS)
def test_turned_image_is_taken_as_stored_or_refused_in_every_format(
    tmp_path: Path, format: str
) -> None:
    path = save_turned(tmp_path / "images/a.png", 6)
    (record,) = load(tmp_path, format, size_hw=PIXELS.shape[:2], exif="ignore").records
    assert (record.height, record.width) == PIXELS.shape[:2]
    assert np.array_equal(read_image(record.file), PIXELS)
    message = one_line(
        f"{path}: is to be turned (EXIF orientation 6): turn its pixels, or set data.exif to apply "
        "or ignore"
    )
    with pytest.raises(BadImageError, match=message):
        load(tmp_path, format, exif="refuse")


@pytest.mark.parametrize("exif", ["apply", "ignore", "refuse"])
def test_image_that_is_stored_upright_has_its_plain_name_whatever_the_setting(
    tmp_path: Path, exif: str
) -> None:
    path = save_turned(tmp_path / "images/a.png", 1)
    (record,) = load(tmp_path, "folder", exif=exif).records
    assert record.file == str(path)


@pytest.mark.parametrize("format", ["coco", "voc"])
@pytest.mark.parametrize(
    ("exif", "said_hw", "shown", "other"),
    [
        ("apply", (24, 40), "is 40x24 px, the data set says 24x40", "ignore"),
        ("ignore", (40, 24), "is 24x40 px, the data set says 40x24", "apply"),
    ],
)
def test_size_that_labels_say_is_compared_after_the_orientation(
    tmp_path: Path, format: str, exif: str, said_hw: tuple[int, int], shown: str, other: str
) -> None:
    path = save_turned(tmp_path / "images/a.png", 6)
    message = (
        f"{path}: {shown}: mend the annotations, or set data.exif to {other} if all of them are so"
    )
    with pytest.raises(BadImageError, match=one_line(message)):
        load(tmp_path, format, size_hw=said_hw, exif=exif)


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_size_that_labels_say_of_an_upright_image_is_compared_too(
    tmp_path: Path, format: str
) -> None:
    path = save_image(tmp_path / "images/a.png", 40, 24)
    message = one_line(f"{path}: is 24x40 px, the data set says 24x41: mend the annotations")
    with pytest.raises(BadImageError, match=message):
        load(tmp_path, format, size_hw=(24, 41))
    with pytest.raises(ConfigError, match="none of its 1 images can be used"):
        load(tmp_path, format, size_hw=(24, 41), skip_bad=True)
    assert len(load(tmp_path, format).records) == 1


def test_jpeg_and_tiff_are_turned_alike(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 24 * 40, dtype=np.uint8).reshape(24, 40, 1).repeat(3, axis=2)
    for name in ("a.jpg", "a.tif"):
        save_turned(tmp_path / "images" / name, 6, smooth)
    for record in load(tmp_path, "folder").records:
        assert (record.height, record.width) == TURNED_HW
        pixels = read_planned_image(record.file, TURNED_HW).astype(int)
        assert np.abs(pixels - np.rot90(smooth, -1)).max() <= 8


def test_orientation_that_is_broken_or_unknown_says_nothing(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "broken.png", exif=b"Exif\0\0no TIFF at all")
    save_turned(tmp_path / "nine.png", 9)
    for name in ("broken.png", "nine.png"):
        assert read_header(tmp_path / name) == (PIXELS.shape[:2], 1)
        assert np.array_equal(read_image(str(tmp_path / name)), PIXELS)


def test_orientation_behind_the_pixels_or_changed_since_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    content = path.read_bytes()
    late = tmp_path / "late.png"
    with late.open("wb") as file:
        file.write(content[:-12])
        PngImagePlugin.putchunk(file, b"eXIf", exif_of(6).tobytes()[6:])
        file.write(content[-12:])
    message = one_line(f"{late}: its EXIF orientation stands behind its pixels: save it anew")
    with pytest.raises(BadImageError, match=message):
        read_image(str(late))
    with pytest.raises(BadImageError, match=r"orientation is 1, and was 6: run extract-features"):
        read_image(f"{path}#orientation=6")


def test_view_of_a_turned_image_is_a_part_of_the_upright_one(tmp_path: Path) -> None:
    path = save_turned(tmp_path / "a.png", 8)
    part = read_image(f"{path}#orientation=8#xywh=3,2,10,20&flip")
    assert np.array_equal(part, np.rot90(PIXELS)[2:22, 3:13][:, ::-1])


def make_linked(root: Path) -> Path:
    """Eight images: two in the folder, two below it, two in a linked folder, two linked ones."""
    images, other = root / "images", root / "elsewhere"
    for name in ("1.png", "2.png", "sub/3.png", "sub/4.png"):
        save_image(images / name, 9, 9)
    for name in ("in/5.png", "in/6.png", "7.png", "8.png"):
        save_image(other / name, 9, 9)
    (images / "linked").symlink_to(other / "in")
    for name in ("7.png", "8.png"):
        (images / name).symlink_to(other / name)
    return images


def test_linked_subfolders_and_files_are_images_of_the_folder(tmp_path: Path) -> None:
    images = make_linked(tmp_path)
    found = list_images(images, recursive=True)
    names = ["1.png", "2.png", "7.png", "8.png", "linked/5.png", "linked/6.png"]
    assert [str(path.relative_to(images)) for path in found] == [
        *names, "sub/3.png", "sub/4.png",
    ]  # fmt: skip
    assert len(load(tmp_path, "folder").records) == 8


def test_link_that_leads_nowhere_is_told_and_not_left_out(tmp_path: Path) -> None:
    images = make_linked(tmp_path)
    (images / "9.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(BadImageError, match=rf"^{re.escape(str(images))}/9.png: no such image"):
        load(tmp_path, "folder")
    (images / "more").symlink_to(tmp_path / "gone")
    message = one_line(f"{images}/more: is a link that leads nowhere: mend it, or remove it")
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "folder")
