"""Files of one split: which images there are, their sizes from the headers, and their pixels.

A camera stores an image as its sensor saw it, and in EXIF how to turn it upright. An image with
such an orientation is named by its path and by what is done about it: `a.jpg#orientation=6` is
turned upright, `a.jpg#orientation=1` is as stored. So a cache's manifest says by itself what each
of its samples shows.
"""

from __future__ import annotations

import errno
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from configs.errors import BadImageError, ConfigError, MissingDataError
from configs.given_files import inside, is_file, regular
from data.system.linked_folders import files_below

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

# What Pillow may take a file for, whatever its name. Others of its formats start programs (EPS:
# Ghostscript), or are nobody's photographs.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
# What Pillow raises for damaged files, format by format.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)

UPRIGHT = 1
"""The EXIF orientation of an image that is stored as it is to be seen; the others are 2 to 8."""
_ORIENTED = re.compile(r"#orientation=([1-8])(?=#|$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of an image list; `where` names file and line for messages."""

    name: str
    where: str


def read_bytes(path: Path) -> bytes:
    """Return what a file holds. Raises ConfigError if it cannot be read."""
    try:
        return regular(path).read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file: check the path") from None
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{path}: cannot be read ({reason}): check path and rights") from None


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file. Raises ConfigError if it cannot be read."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text at byte {error.start}: name a text file, or convert it"
        ) from None


def read_image_list(path: Path) -> list[Listed]:
    """Return the non-empty lines in order. Raises ConfigError if there is none, or one twice."""
    lines: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if name in lines:
            raise ConfigError(
                f"{path}: line {number}: '{name}' is on line {lines[name]} too: remove one"
            )
        lines[name] = number
    if not lines:
        raise ConfigError(f"{path}: names no image: write one a line, or name another list")
    return [Listed(name, f"{path}: line {number}") for name, number in lines.items()]


def list_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the images of a folder, sorted by path; `recursive` with those of its subfolders.

    A link that leads nowhere is an image that is missing. Raises MissingDataError if there is none,
    or a subfolder is a link that leads nowhere; ConfigError if a folder cannot be read.
    """
    try:
        found = [
            path
            for path in (files_below(folder) if recursive else folder.iterdir())
            if not path.name.startswith(".")
        ]
        for path in found if recursive else ():
            if not path.suffix and path.is_symlink() and not path.exists():
                raise MissingDataError(
                    f"{path}: is a link that leads nowhere: mend it, or remove it"
                )
        images = sorted(
            path
            for path in found
            if path.suffix.lower() in SUFFIXES
            and (path.is_file() or (path.is_symlink() and not path.exists()))
        )
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: cannot be read ({error.strerror}): check disk and rights"
        ) from None
    if not images:
        kinds = " ".join(suffix[1:] for suffix in SUFFIXES)
        raise MissingDataError(f"{folder}: holds no image ({kinds}): name the folder of the images")
    return images


def find_image(folder: Path, listed: Listed) -> Path:
    """Return the file of a listed id or file name. Raises BadImageError if there is none.

    ConfigError if its name leads out of the folder.
    """
    exact = listed_inside(folder, listed)
    if exact.suffix.lower() in SUFFIXES and is_file(exact):
        return exact
    for suffix in SUFFIXES:
        for spelling in (suffix, suffix.upper()):
            path = folder / f"{listed.name}{spelling}"
            if is_file(path):
                return path
    raise missing_image(listed, folder / listed.name, str(folder))


def listed_inside(folder: Path, listed: Listed) -> Path:
    """Return the path of a listed name in the folder of the images. ConfigError if it leads out."""
    try:
        return inside(folder, listed.name)
    except ValueError as error:
        raise ConfigError(
            f"{listed.where}: {error}, the folder of the images: name one that holds all of them"
        ) from None


def missing_image(listed: Listed, file: Path, base: str) -> BadImageError:
    """Return the error for a listed image that is not in `base`, the folder of the images."""
    return BadImageError(
        f"{listed.where}: no image '{listed.name}' in {base}: correct the list or the folder",
        file=str(file), reason="no such image",
    )  # fmt: skip


def oriented(file: str, orientation: int) -> str:
    """Return what names the image as it is seen in an orientation."""
    return f"{file}#orientation={orientation}"


def split_orientation(file: str) -> tuple[str, int | None]:
    """Return an image's own file, and the orientation that its name asks for, if any."""
    found = _ORIENTED.search(file)
    if found is None:
        return file, None
    return file[: found.start()] + file[found.end() :], int(found[1])


def image_size_hw(path: Path) -> tuple[int, int]:
    """Return (height, width) in px of the image turned upright, from the header alone."""
    (height, width), orientation = read_header(path)
    return (width, height) if swaps_sides(orientation) else (height, width)


def swaps_sides(orientation: int) -> bool:
    """Say whether an image of this orientation is turned by a quarter to be seen upright."""
    return orientation >= 5


def read_header(path: Path) -> tuple[tuple[int, int], int]:
    """Return (height, width) in px as stored, and the EXIF orientation, without any pixel.

    Pillow turns TIFF upright by itself when it decodes, so that such a file is stored upright.
    Raises BadImageError if the file is missing, damaged or too large.
    """
    try:
        with Image.open(regular(path), formats=_FORMATS) as image:
            if image.format != "TIFF":
                return (image.height, image.width), _orientation_of(image)
            # Pillow 13 gives the size after turning, 10 before.
            tiff: Any = image
            tags = tiff.tag_v2
            width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
            is_turned = swaps_sides(_known(tags.get(ExifTags.Base.Orientation)))
            return ((width, height) if is_turned else (height, width)), UPRIGHT
    except (*_DAMAGED, KeyError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None


def decode_rgb(path: Path, orientation: int | None = None) -> npt.NDArray[np.uint8]:
    """Return uint8 [H, W, 3] RGB, turned upright from this orientation; alpha is dropped.

    Perhaps read-only: a copy may take as long as decoding. None: as stored. Raises BadImageError if
    the file is missing, damaged, too large, of more than 8 bits, or no longer of this orientation.
    """
    try:
        with Image.open(regular(path), formats=_FORMATS) as image:
            # Pillow would clip 16-bit and float pixels at 255 without a word.
            if image.mode.startswith(("I", "F")):
                reason = f"pixels of more than 8 bits (mode {image.mode})"
                raise _bad(path, reason, "convert it to 8 bits")
            before = UPRIGHT if image.format == "TIFF" else _orientation_of(image)
            is_told = "exif" in image.info
            pixels = np.asarray(image.convert("RGB"), dtype=np.uint8)
            if orientation not in (None, UPRIGHT, before):
                reason = f"its EXIF orientation is {before}, and was {orientation}"
                raise _bad(path, reason, "run extract-features anew")
            if image.format == "PNG" and not is_told and _orientation_behind(image) != UPRIGHT:
                # Nobody who looks at headers alone can know of it.
                raise _bad(path, "its EXIF orientation stands behind its pixels", "save it anew")
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None
    return _turned(pixels, orientation or UPRIGHT)


def _orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation that is known by now; a block that is broken says nothing."""
    try:
        # PNG's own `getexif` would decode the pixels.
        exif = Image.Image.getexif(image)
    except (*_DAMAGED, TypeError, KeyError):
        return UPRIGHT
    return _known(exif.get(ExifTags.Base.Orientation))


def _orientation_behind(image: Image.Image) -> int:
    """Return the orientation in a block that was met while the pixels were decoded."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
    except (*_DAMAGED, TypeError, KeyError):
        return UPRIGHT
    return _known(exif.get(ExifTags.Base.Orientation))


def _known(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else UPRIGHT


def _turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    if swaps_sides(orientation):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def refuse_other_size(file: str, found_hw: tuple[int, int], said_hw: tuple[int, int]) -> None:
    """Raise BadImageError if an image is not of the size that the data set says."""
    if found_hw == said_hw:
        return
    found, said = (f"{height}x{width}" for height, width in (found_hw, said_hw))
    path, orientation = split_orientation(file)
    remedy = "mend the annotations"
    if orientation is not None and found_hw == said_hw[::-1]:
        # It is turned, or would be: the annotations are of the other way to see it.
        other = "apply" if orientation == UPRIGHT else "ignore"
        remedy += f", or set data.exif to {other} if all of them are so"
    reason = f"is {found} px, the data set says {said}"
    raise BadImageError(f"{path}: {reason}: {remedy}", file=file, reason=reason)


def _unreadable(path: Path, error: Exception) -> ConfigError:
    if isinstance(error, FileNotFoundError):
        return _bad(path, "no such image", "check the path")
    if isinstance(error, Image.DecompressionBombError):
        return _bad(path, "image too large to open safely", "shrink it or leave it out")
    if isinstance(error, UnidentifiedImageError):
        return _bad(path, "not an image that can be read", "replace it or leave it out")
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        # The disk's or the system's failure, not the image's: it must never be skipped as bad.
        # (EINVAL comes from a damaged file's offsets.)
        return ConfigError(f"{path}: cannot be read ({error.strerror}): check disk and rights")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return _bad(path, f"unreadable image ({reason})", "replace it or leave it out")


def _bad(path: Path, reason: str, remedy: str) -> BadImageError:
    return BadImageError(f"{path}: {reason}: {remedy}", file=str(path), reason=reason)
