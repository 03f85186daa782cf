"""Compress a split's cache: one file per image, written once, by an ensemble of models."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from tqdm import tqdm

from analyze.file_format.image_file import ImageFile, section_bytes, unpack
from analyze.streams.ensemble import DroppedLevel, Ensemble
from analyze.streams.pyramid_codec import PyramidCodec
from analyze.streams.streams_index import (
    FILE_NAME,
    AnyIndex,
    StreamsIndex,
    image_path,
    load_index,
)
from analyze.streams.unsent_levels import KnownMeans, training_cache
from configs.errors import CacheError
from configs.given_files import regular
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations, write_annotations
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from data.system.atomic_files import remove_leftovers, write_atomically
from data.system.locks import held
from data.system.threads import per_image
from train.runs.loaded_models import LoadedModels

_LOG = logging.getLogger(__name__)

_LOCK_NAME = "compressing.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compressed:
    """What the files of a split weigh; `num_new_images` of them were written by this call."""

    num_images: int
    num_new_images: int
    num_bytes: int
    """All bytes of all images' files; the index beside them is not among them."""
    num_pixels: int
    """Of the original images."""
    num_input_pixels: int
    """Of the same images as the detector resizes them, before padding."""
    level_bytes: dict[int, int]
    """Each level's section heads and payloads; the rest of `num_bytes` is shared."""

    @property
    def bits_per_pixel(self) -> float:
        """Bits per pixel of the original images."""
        return 8 * self.num_bytes / self.num_pixels

    @property
    def bits_per_input_pixel(self) -> float:
        """Bits per pixel of the detector's input."""
        return 8 * self.num_bytes / self.num_input_pixels

    def lines(self) -> list[str]:
        """Return the report: the whole, then each level, then what the levels share."""
        rows = [(f"level {level}", size) for level, size in sorted(self.level_bytes.items())]
        rows.append(("shared", self.num_bytes - sum(self.level_bytes.values())))
        return [
            f"{self.num_images} images ({self.num_new_images} new), {self.num_bytes} bytes, "
            f"{self.bits_per_pixel:.5g} bits per pixel, "
            f"{self.bits_per_input_pixel:.5g} of the detector's input",
            *(
                f"  {name}: {size} bytes, {8 * size / self.num_pixels:.5g} bits per pixel, "
                f"{8 * size / self.num_input_pixels:.5g} of the detector's input"
                for name, size in rows
            ),
        ]


class ImageCoder(Protocol):
    """What makes an image's file of its maps."""

    device: str

    def encode(
        self, maps: Mapping[int, NDArray[Any]], *, image_id: int, image_hw: tuple[int, int]
    ) -> bytes:
        """Return the file of one image's maps, float [H, W, C] of every level."""

    def require_own(self, image: ImageFile, source: str) -> None:
        """Raise CacheError unless these models wrote the file."""


def refuse_other_detector_runs(
    runs: Iterable[Path], cache: CacheFolder, models: LoadedModels
) -> None:
    """Raise CacheError if a run was trained on another detector's features than the cache's."""
    made_by = cache.manifest.detector["weights_sha256"]
    for run in sorted(set(runs)):
        trained_on = models.info(run).detector_weights_sha256
        if trained_on != made_by:
            raise CacheError(
                f"{run}: was trained on features of detector weights {trained_on[:12]}, the cache "
                f"{cache} is of {made_by[:12]}: name the runs that belong to this cache"
            )


def compress_cache(
    cache: CacheFolder | Path | str,
    ensemble: Ensemble,
    out: Path | str,
    *,
    models: LoadedModels | None = None,
    show_progress: bool = True,
) -> Compressed:
    """Write the split's files into `out`; goes on where an earlier call stopped.

    Waits for another call that writes there.

    `models` are those that are read already, and say on which device; without, on the CPU. Raises
    CacheError if the cache is missing, of crops, or damaged, or if `out` holds another ensemble's
    or another cache's files; ConfigError for runs or levels that do not fit.
    """
    cache, out, models = CacheFolder.of(cache), Path(out), models or LoadedModels()
    manifest = cache.manifest
    manifest.require_whole_maps()
    ensemble.require_levels(manifest.levels)
    ways = ensemble.levels
    refuse_other_detector_runs(ensemble.runs, cache, models)
    known = KnownMeans(cache, training_cache(cache))
    means = {level: known.of(level) for level, how in ways.items() if isinstance(how, DroppedLevel)}
    codec = PyramidCodec(ensemble, means, models)
    index = StreamsIndex(
        ensemble=ensemble, ensemble_id=codec.ensemble_id, means=means, manifest=manifest
    )
    return write_streams(cache, out, lambda readers: (index, codec), show_progress=show_progress)


def write_streams(
    cache: CacheFolder,
    out: Path,
    prepare: Callable[[Mapping[int, LevelReader]], tuple[AnyIndex, ImageCoder]],
    *,
    show_progress: bool,
) -> Compressed:
    """Write the index and those files that are not there; `prepare` gives the index and the coder.

    It may write into `out`, too, which is held against other processes. Raises CacheError as
    `compress_cache`.
    """
    with ExitStack() as stack:
        readers = {
            info.index: stack.enter_context(LevelReader(cache, info.index))
            for info in cache.manifest.levels
        }
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                held(
                    out / _LOCK_NAME,
                    waiting=lambda: _LOG.info("%s: another process writes here: waiting", out),
                )
            )
            index, codec = prepare(readers)
            _settle(out, index, cache.path)
            return _compress(readers, codec, out, show_progress=show_progress)
        except OSError as error:
            raise CacheError(
                f"{error.filename or out}: cannot be read or written ({error.strerror or error}): "
                "mend it and run the same command again, whole files stay"
            ) from error


def _settle(out: Path, index: AnyIndex, cache: Path) -> None:
    """Make `out` hold this index; CacheError if it holds another one's files."""
    if (out / FILE_NAME).exists():
        difference = index.difference_from(load_index(out))
        if difference is not None:
            raise CacheError(
                f"{out}: holds features compressed otherwise ({difference}): "
                "choose another --out, or remove the folder"
            )
    images_folder = image_path(out, 0).parent
    images_folder.mkdir(exist_ok=True)
    for folder in (out, images_folder):
        remove_leftovers(folder)
    # Without boxes the features still decode; the decoded cache then has none either. What cannot
    # be read for now is no reason to leave them out.
    with contextlib.suppress(CacheError):
        images = read_annotations(cache / ANNOTATIONS_NAME, index.manifest.split)
        write_annotations(out / ANNOTATIONS_NAME, images)
    # Anew each time: run folders may have moved since.
    index.save(out)


def _compress(
    readers: Mapping[int, LevelReader], codec: ImageCoder, out: Path, *, show_progress: bool
) -> Compressed:
    manifest = next(iter(readers.values())).manifest
    level_bytes = dict.fromkeys(readers, 0)
    num_bytes = num_new = 0

    def file_of(number: int) -> tuple[bytes, bool]:
        """Return an image's file, and whether it had to be written."""
        sample = manifest.samples[number]
        path = image_path(out, sample.image_id)
        sizes_hw = {level: manifest.sample_shape(level, sample.bucket)[:2] for level in readers}
        there = _whole_file(path, codec, sample.image_id, sizes_hw)
        if there is not None:
            return there, False
        data = codec.encode(
            {level: reader.sample(number) for level, reader in readers.items()},
            image_id=sample.image_id,
            image_hw=(sample.height, sample.width),
        )
        write_atomically(path, data)
        return data, True

    numbers = range(len(manifest.samples))
    files = tqdm(
        per_image(file_of, numbers, codec.device),
        desc="compress", total=len(numbers), unit="image",
        disable=None if show_progress else True,
    )  # fmt: skip
    for data, is_new in files:
        num_new += is_new
        num_bytes += len(data)
        for level, size in section_bytes(unpack(data)).items():
            level_bytes[level] += size
    return Compressed(
        num_images=len(manifest.samples),
        num_new_images=num_new,
        num_bytes=num_bytes,
        num_pixels=sum(sample.height * sample.width for sample in manifest.samples),
        num_input_pixels=sum(each.input_height * each.input_width for each in manifest.samples),
        level_bytes=level_bytes,
    )


def _whole_file(
    path: Path, codec: ImageCoder, image_id: int, sizes_hw: Mapping[int, tuple[int, int]]
) -> bytes | None:
    """Return the bytes of this image's file if an earlier call has written it, and it is whole."""
    try:
        data = regular(path).read_bytes()
        image = unpack(data, str(path))
        codec.require_own(image, str(path))
    except (FileNotFoundError, CacheError):
        return None
    found = {section.level: section.size_hw for section in image.sections}
    return data if image.image_id == image_id and found == sizes_hw else None
