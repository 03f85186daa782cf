"""Images through the backbone: the maps that a cache stores of them, on their way to the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import CacheError
from data.cache.manifest import Manifest
from data.cache.manifest_parts import LevelInfo, SampleInfo
from data.cache.plan import stored_corner
from extract.detector.loading import backbone_levels, prepare_images

Maps = dict[int, list[Tensor]]
"""{level: [H, W, C] float32 on the CPU, one per image}, whole or cut as the manifest says."""


class Download:
    """Copies of tensors on the CPU, laid out alike. Those of a GPU are there after `wait`.

    They lie in pinned memory, which torch keeps and uses again, and are copied by a stream of their
    own, so that neither the GPU nor the calling thread waits for them. Tensors that are on the CPU
    already are not copied.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._done: torch.cuda.Event | None = None
        if not tensors or not tensors[0].is_cuda:
            return
        beside = _copying_stream(tensors[0].device)
        beside.wait_stream(torch.cuda.current_stream(tensors[0].device))
        with torch.cuda.stream(beside):
            self._tensors = [
                torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(
                    tensor, non_blocking=True
                )
                for tensor in tensors
            ]
            self._done = beside.record_event()
        for tensor in tensors:
            tensor.record_stream(beside)  # or its memory would be used again too soon

    def wait(self) -> list[Tensor]:
        """Return the copies, in their order, once they are whole."""
        if self._done is not None:
            self._done.synchronize()
        return self._tensors


@cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def start_maps(
    model: Any, manifest: Manifest, samples: Sequence[SampleInfo], images: Sequence[Tensor]
) -> Callable[[], Maps]:
    """Compute the maps of images uint8 [H, W, 3] of one bucket; return what waits for them.

    A GPU has only been asked for them when this returns, so that it can be asked for the next
    ones before these are waited for; the images have to be pinned for that. On a CPU give one image
    at a time, so that no library's choice of algorithm for a batch size can change a bit of the
    features. This, or what it returns, raises CacheError if the plan does not hold.
    """
    batch, sizes = prepare_images(model, images)
    for sample, size in zip(samples, sizes, strict=True):
        if (sample.input_height, sample.input_width) != tuple(size):
            raise CacheError(
                f"{sample.file}: the detector resized it to {tuple(size)}, the plan says "
                f"{(sample.input_height, sample.input_width)}: please report this as a bug"
            )
    levels = manifest.levels
    with torch.inference_mode():
        found = backbone_levels(model, batch)
        wrong = torch.stack([_is_not_derived(list(found.values()), found, x) for x in levels])
        parts = [
            _stored_part(manifest, sample, level.index, values)
            for level in levels
            for sample, values in zip(
                samples, found[level.key].float().permute(0, 2, 3, 1), strict=True
            )
        ]
    download = Download([wrong, *parts])

    def finished() -> Maps:
        are_wrong, *maps = download.wait()
        for level, is_wrong in zip(levels, are_wrong.tolist(), strict=True):
            if is_wrong:
                raise CacheError(
                    f"level {level.index} is not level {level.derived_from}[::2, ::2] for "
                    f"{samples[0].file}: please report this as a bug"
                )
        rows = range(0, len(maps), len(samples))
        return {
            level.index: maps[row : row + len(samples)]
            for level, row in zip(levels, rows, strict=True)
        }

    return finished


def compute_maps(model: Any, manifest: Manifest, sample: SampleInfo, image: NDArray[Any]) -> Maps:
    """Return the maps of one image, uint8 [H, W, 3]. Raises CacheError if the plan fails."""
    return start_maps(model, manifest, [sample], [torch.from_numpy(image)])()


def _is_not_derived(maps: Sequence[Tensor], found: dict[str, Tensor], level: LevelInfo) -> Tensor:
    """Return whether a level that is said to be another's every second position is not, bool []."""
    features = found[level.key]
    if level.derived_from is None:
        return torch.zeros((), dtype=torch.bool, device=features.device)
    source = maps[level.derived_from][:, :, ::2, ::2]
    if source.shape != features.shape:
        return torch.ones((), dtype=torch.bool, device=features.device)
    return (features != source).any()


def _stored_part(manifest: Manifest, sample: SampleInfo, level: int, values: Tensor) -> Tensor:
    """Return what is stored of a map [H, W, C]: all of it, or the sample's crop."""
    if manifest.crop is None:
        return values
    height, width = manifest.buckets[sample.bucket].level_shapes[level]
    top, left = stored_corner(
        image_id=sample.image_id,
        level=level,
        map_hw=(values.shape[0], values.shape[1]),
        crop_hw=(height, width),
    )
    # A copy: a view would keep the whole map in memory until the unit is written.
    return values[top : top + height, left : left + width].contiguous()
