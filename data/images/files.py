"""Files of one split: which images there are, their sizes from the headers, and their pixels."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from configs.errors import BadImageError, ConfigError, MissingDataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

# What Pillow raises for damaged files, format by format.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of an image list; `where` names file and line for messages."""

    name: str
    where: str


def read_bytes(path: Path) -> bytes:
    """Return what a file holds. Raises ConfigError if it cannot be read."""
    try:
        return path.read_bytes()
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
    """Return the images of a folder, sorted by path. Raises MissingDataError if there is none."""
    found = folder.rglob("*") if recursive else folder.glob("*")
    images = sorted(
        path
        for path in found
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not images:
        kinds = " ".join(suffix[1:] for suffix in SUFFIXES)
        raise MissingDataError(f"{folder}: holds no image ({kinds}): name the folder of the images")
    return images


def find_image(folder: Path, listed: Listed) -> Path:
    """Return the file of a listed id or file name. Raises BadImageError if there is none."""
    exact = folder / listed.name
    if exact.suffix.lower() in SUFFIXES and exact.is_file():
        return exact
    for suffix in SUFFIXES:
        for spelling in (suffix, suffix.upper()):
            path = folder / f"{listed.name}{spelling}"
            if path.is_file():
                return path
    raise missing_image(listed, folder / listed.name, str(folder))


def missing_image(listed: Listed, file: Path, base: str) -> BadImageError:
    """Return the error for a listed image that is not in `base`, the folder of the images."""
    return BadImageError(
        f"{listed.where}: no image '{listed.name}' in {base}: correct the list or the folder",
        file=str(file), reason="no such image",
    )  # fmt: skip


def image_size_hw(path: Path) -> tuple[int, int]:
    """Return (height, width) in px as stored, from the header alone; EXIF rotation is ignored."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None


def decode_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Return uint8 [H, W, 3] RGB as stored, without EXIF rotation; alpha is dropped.

    Raises BadImageError if the file is missing, damaged, too large or of more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            # Pillow would clip 16-bit and float pixels at 255 without a word.
            if image.mode.startswith(("I", "F")):
                reason = f"pixels of more than 8 bits (mode {image.mode})"
                raise _bad(path, reason, "convert it to 8 bits")
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None


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
