"""One batch of images through the backbone: the maps that a cache stores of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import CacheError
from data.manifest import Manifest, SampleInfo
from data.order import stored_corner
from extract.detector import backbone_levels, prepare_images


def compute_maps(
    model: Any, manifest: Manifest, samples: Sequence[SampleInfo], images: list[NDArray[Any]]
) -> dict[int, list[Tensor]]:
    """Return {level: [H, W, C] float32 on the CPU, one per image}; images share one bucket.

    Maps are whole, or cut as the manifest's `crop` says.

    On the CPU the backbone sees one image at a time, so that no library's choice of algorithm for
    a batch size can change a bit of the features. Raises CacheError if the plan does not hold.
    """
    batch, sizes = prepare_images(model, images)
    for sample, size in zip(samples, sizes, strict=True):
        if (sample.input_height, sample.input_width) != tuple(size):
            raise CacheError(
                f"{sample.file}: the detector resized it to {tuple(size)}, the plan says "
                f"{(sample.input_height, sample.input_width)}: please report this as a bug"
            )
    device = next(model.parameters()).device
    parts = (
        list(zip(zip(samples), batch.split(1), strict=True))  # type: ignore[no-untyped-call]
        if device.type == "cpu"
        else [(samples, batch.to(device, non_blocking=True))]
    )
    maps: dict[int, list[Tensor]] = {level.index: [] for level in manifest.levels}
    for part_samples, part in parts:
        with torch.inference_mode():
            found = backbone_levels(model, part)
        for level in manifest.levels:
            features = found[level.key].float()
            if level.derived_from is not None:
                source = list(found.values())[level.derived_from]
                if not torch.equal(features, source.float()[:, :, ::2, ::2]):
                    raise CacheError(
                        f"level {level.index} is not level {level.derived_from}[::2, ::2] for "
                        f"{samples[0].file}: please report this as a bug"
                    )
            maps[level.index].extend(
                _stored_part(manifest, sample, level.index, values)
                for sample, values in zip(part_samples, features.permute(0, 2, 3, 1), strict=True)
            )
    return maps


def _stored_part(manifest: Manifest, sample: SampleInfo, level: int, values: Tensor) -> Tensor:
    """Return what is stored of a map [H, W, C], on the CPU: all of it, or the sample's crop."""
    if manifest.crop is None:
        return values.cpu()
    height, width = manifest.buckets[sample.bucket].level_shapes[level]
    top, left = stored_corner(
        image_id=sample.image_id,
        level=level,
        map_hw=(values.shape[0], values.shape[1]),
        crop_hw=(height, width),
    )
    # A copy: a view would keep the whole map in memory until the unit is written.
    return values[top : top + height, left : left + width].contiguous().cpu()
