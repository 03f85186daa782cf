"""One level through the bitstream: its section of an image's file, and a file of it alone.

A level costs its section of an image's file. What all levels share is counted once for the whole
pyramid: see `analyze.streams.unsent_levels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from analyze.file_format.image_file import ID_BYTES, ImageFile, pack, section_size, unpack
from analyze.file_format.section_heads import Kind, Section
from configs.errors import CacheError
from data.reading.level_reader import LevelReader
from train.codecs.layers.context_path import Context


@dataclass(frozen=True, slots=True)
class SeenLevel:
    """The coarser level beside which a level is coded, and what the decoder has of it."""

    level: int
    decoded: Context


def model_id(model_sha256: str) -> bytes:
    """Return the first bytes of a model's hash (hex), which a file of one level carries."""
    return bytes.fromhex(model_sha256)[:ID_BYTES]


def pack_level(section: Section, identity: bytes) -> bytes:
    """Return a file of this level alone, of no image in particular."""
    return pack(ImageFile(ensemble_id=identity, image_id=0, image_hw=(1, 1), sections=(section,)))


def unpack_level(data: bytes, *, level: int, identity: bytes, source: str = "bitstream") -> Section:
    """Return the only section of a file; CacheError if it is damaged or another model's."""
    image = unpack(data, source)
    section = image.sections[0]
    if section.level != level:
        raise CacheError(
            f"{source}: holds level {section.level}, not level {level}: "
            f"decode it with the checkpoint of level {section.level}"
        )
    if image.ensemble_id != identity:
        raise CacheError(
            f"{source}: was made by model {image.ensemble_id.hex()}, this is {identity.hex()}: "
            "decode it with the checkpoint that encoded it"
        )
    return section


def bytes_in_pyramid(section: Section, reader: LevelReader, index: int) -> int:
    """Return what the section of sample `index` takes in the file of all of the cache's levels.

    The size of a level that is half as large as the one before it is not told.
    """
    finer = [info.index for info in reader.manifest.levels if info.index < section.level]
    bucket = reader.manifest.samples[index].bucket
    before = reader.manifest.sample_shape(max(finer), bucket)[:2] if finer else None
    return section_size(section, before)


def encode_section(
    codec: Any, maps: torch.Tensor, *, level: int, beside: SeenLevel | None = None
) -> tuple[Section, Context]:
    """Return what a file holds of one map, float32 [1, C, H, W], and what it decodes to.

    To the bit what `decode_sections` gives, without decoding: the context of a finer level.
    """
    given = () if beside is None else (beside.decoded,)
    coded, decoded = codec.compress_for_finer(maps, *given)
    (section,) = _sections(codec, coded, level, beside)
    return section, decoded


def encode_sections(
    codec: Any, maps: torch.Tensor, *, level: int, beside: SeenLevel | None = None
) -> list[Section]:
    """Return what files hold of several maps of one size, float32 [B, C, H, W]."""
    given = () if beside is None else (beside.decoded,)
    return _sections(codec, codec.compress(maps, *given), level, beside)


def _sections(
    codec: Any, coded: dict[str, Any], level: int, beside: SeenLevel | None
) -> list[Section]:
    sections = [
        Section(
            level=level,
            kind=Kind.CODED,
            size_hw=tuple(coded["size"]),
            stages=codec.size.stages,
            payloads=tuple(payloads),
            context=None if beside is None else beside.level,
        )
        for payloads in coded["strings"]
    ]
    assert sections[0].latent_hw == tuple(coded["shape"]), "the latents' shape follows"
    return sections


def predicted_section(
    codec: Any, size_hw: tuple[int, int], *, level: int, context_level: int
) -> Section:
    """Return what a file holds of a map of which nothing is sent."""
    return Section(
        level=level, kind=Kind.PREDICTED, size_hw=size_hw, stages=codec.size.stages,
        context=context_level,
    )  # fmt: skip


def decode_sections(
    codec: Any, sections: Sequence[Section], source: str, context: Context | None = None
) -> Context:
    """Return what sections of one size decode to, on the codec's device.

    `maps`, float32 [B, C, H, W], are forward's x_hat in eval mode; with the trail they are the
    context of a finer level. `context` is that of a contextual codec. Raises CacheError, which
    names `source`, if a section is not one of this codec.
    """
    first = sections[0]
    for section in sections:
        num_payloads = codec.num_payloads if section.kind is Kind.CODED else 0
        if section.stages != codec.size.stages or len(section.payloads) != num_payloads:
            raise CacheError(
                f"{source}: is damaged (level {section.level} is not as its model codes it): "
                "compress the features again"
            )
        assert (section.kind, section.size_hw) == (first.kind, first.size_hw)
    if first.kind is Kind.PREDICTED:
        predicted: Context = codec.predicted(first.size_hw, context)
        return predicted
    strings = [list(section.payloads) for section in sections]
    given = () if context is None else (context,)
    try:
        found = codec.decompress(strings, first.latent_hw, first.size_hw, *given)
    except CacheError as error:
        raise CacheError(f"{source}: level {first.level}: {error}") from error
    return Context(found["x_hat"], found["trail"])
