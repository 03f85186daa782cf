"""Images through the backbone: the maps that a cache stores of them, on their way to the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import CacheError
from data.cache.manifest import Manifest
from data.cache.manifest_parts import LevelInfo, SampleInfo
from data.cache.plan import stored_corner
from data.writing.stored_sample import STORED_DTYPES, StoredMap, stored_maps
from data.writing.unit_writer import Map
from extract.detector.loading import backbone_levels, prepare_images
from extract.features.busy_times import BusyTimes, DeviceTime

Maps = Mapping[int, Sequence[Map]]
"""{level: [H, W, C] on the CPU, one per image}, whole or cut as the manifest says: float32, or cast
and summed up on a GPU."""


def start_maps(
    model: Any, manifest: Manifest, samples: Sequence[SampleInfo], images: Sequence[Tensor],
    *, cast: bool = False, busy: BusyTimes | None = None,
) -> Callable[[], Maps]:  # fmt: skip
    """Compute the maps of images uint8 [H, W, 3] of one bucket; return what waits for them.

    A GPU has only been asked for them when this returns, so that it can be asked for the next
    ones before these are waited for; the images have to be pinned for that. On a CPU give one image
    at a time, so that no library's choice of algorithm for a batch size can change a bit of the
    features. With `cast` they are cast and summed up where they are, if `stored_maps` knows their
    stored type. This, or what it returns, raises CacheError if the plan does not hold.
    """
    device = next(model.parameters()).device
    computing = DeviceTime(device)
    batch, sizes = prepare_images(model, images)
    for sample, size in zip(samples, sizes, strict=True):
        if (sample.input_height, sample.input_width) != tuple(size):
            raise CacheError(
                f"{sample.file}: the detector resized it to {tuple(size)}, the plan says "
                f"{(sample.input_height, sample.input_width)}: please report this as a bug"
            )
    levels = manifest.levels
    dtype = STORED_DTYPES.get(manifest.dtype) if cast else None
    with torch.inference_mode():
        found = backbone_levels(model, batch)
        wrong = torch.stack([_is_not_derived(list(found.values()), found, x) for x in levels])
        parts = [_stored_part(manifest, samples, x.index, found[x.key].float()) for x in levels]
        ready = [
            [part.permute(0, 2, 3, 1)] if dtype is None else list(stored_maps(part, dtype))
            for part in parts
        ]
    computing.stop()
    download = Download([wrong, *chain.from_iterable(ready)])

    def finished() -> Maps:
        are_wrong, *copies = download.wait()
        if busy is not None:
            busy.add("backbone", computing.seconds)
            busy.add("copy", download.seconds)
        for level, is_wrong in zip(levels, are_wrong.tolist(), strict=True):
            if is_wrong:
                raise CacheError(
                    f"level {level.index} is not level {level.derived_from}[::2, ::2] for "
                    f"{samples[0].file}: please report this as a bug"
                )
        if dtype is None:
            return {x.index: list(maps) for x, maps in zip(levels, copies, strict=True)}
        return {
            level.index: [
                StoredMap(values=each, sums=its, summed_on=device.type)
                for each, its in zip(values, sums.numpy(), strict=True)
            ]
            for level, values, sums in zip(levels, copies[::2], copies[1::2], strict=True)
        }

    return finished


def compute_maps(
    model: Any, manifest: Manifest, sample: SampleInfo, image: NDArray[Any]
) -> dict[int, list[Tensor]]:
    """Return the maps of one image, uint8 [H, W, 3]: {level: [[H, W, C] float32 on the CPU]}.

    Raises CacheError if the plan fails.
    """
    maps = start_maps(model, manifest, [sample], [torch.from_numpy(image)])()
    return {level: [x for x in found if isinstance(x, Tensor)] for level, found in maps.items()}


def _is_not_derived(maps: Sequence[Tensor], found: dict[str, Tensor], level: LevelInfo) -> Tensor:
    """Return whether a level that is said to be another's every second position is not, bool []."""
    features = found[level.key]
    if level.derived_from is None:
        return torch.zeros((), dtype=torch.bool, device=features.device)
    source = maps[level.derived_from][:, :, ::2, ::2]
    if source.shape != features.shape:
        return torch.ones((), dtype=torch.bool, device=features.device)
    return (features != source).any()


def _stored_part(
    manifest: Manifest, samples: Sequence[SampleInfo], level: int, maps: Tensor
) -> Tensor:
    """Return what is stored of maps [B, C, H, W]: all of them, or each sample's crop."""
    if manifest.crop is None:
        return maps
    crops = []
    for sample, values in zip(samples, maps, strict=True):
        height, width = manifest.buckets[sample.bucket].level_shapes[level]
        top, left = stored_corner(
            image_id=sample.image_id,
            level=level,
            map_hw=(values.shape[1], values.shape[2]),
            crop_hw=(height, width),
        )
        crops.append(values[:, top : top + height, left : left + width])
    return torch.stack(crops)  # copies: a view would keep whole maps until the unit is written


class Download:
    """Copies of tensors on the CPU, laid out alike. Those of a GPU are there after `wait`.

    They lie in pinned memory, which torch keeps and uses again, and are copied by a stream of their
    own, so that neither the GPU nor the calling thread waits for them. Tensors that are on the CPU
    already are not copied.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._time: DeviceTime | None = None
        self._done: torch.cuda.Event | None = None
        if not tensors or not tensors[0].is_cuda:
            return
        beside = _copying_stream(tensors[0].device)
        beside.wait_stream(torch.cuda.current_stream(tensors[0].device))
        with torch.cuda.stream(beside):
            self._time = DeviceTime(tensors[0].device)
            self._tensors = [
                _pinned_like(tensor).copy_(tensor, non_blocking=True) for tensor in tensors
            ]
            self._time.stop()
            self._done = beside.record_event()
        for tensor in tensors:
            tensor.record_stream(beside)  # or its memory would be used again too soon

    def wait(self) -> list[Tensor]:
        """Return the copies, in their order, once they are whole."""
        if self._done is not None:
            self._done.synchronize()
        return self._tensors

    @property
    def seconds(self) -> float:
        """How long the copying took, once it has been waited for; 0 where nothing was copied."""
        return 0.0 if self._time is None else self._time.seconds


def _pinned_like(tensor: Tensor) -> Tensor:
    """Return pinned memory of a tensor's shape, strides and type.

    It is a power of two in size: torch keeps such memory, and batches of any size share it.
    """
    num_bytes = tensor.numel() * tensor.element_size()
    size = 1 << (num_bytes - 1).bit_length()
    memory = torch.empty(size, dtype=torch.uint8, pin_memory=True)[:num_bytes].view(tensor.dtype)
    return memory.as_strided(tensor.shape, torch.empty_like(tensor, device="meta").stride())


@cache
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
