"""Bytes to the values that they stand for, on the device that holds them."""

from __future__ import annotations

import torch
from torch import Tensor

from data.coding.byte_code import ByteCode


class ByteDecoder:
    """Decodes on one device, on which it keeps each level's code."""

    def __init__(self, device: str | torch.device) -> None:
        self._device = torch.device(device)
        self._kept: dict[int, tuple[ByteCode, Tensor, Tensor]] = {}

    def values(self, stored: Tensor, code: ByteCode | None) -> Tensor:
        """Return the values of [B, C, H, W] channels_last, float32; without a code, cast alone."""
        values = stored.float()
        if code is not None:
            self.decode(values.permute(0, 2, 3, 1), code)
        return values

    def decode(self, numbers: Tensor, code: ByteCode) -> None:
        """Replace the bytes' numbers, float32 [..., C], by their values.

        In two steps, which round as `ByteCode` says: one alone would round otherwise on some
        devices.
        """
        scale, offset = self._on_device(code)
        numbers.mul_(scale).add_(offset)

    def _on_device(self, code: ByteCode) -> tuple[Tensor, Tensor]:
        # By identity, as a level's code is one object; with it, so that it is not another's later.
        kept = self._kept.get(id(code))
        if kept is None:
            kept = (
                code,
                torch.from_numpy(code.scales).to(self._device),
                torch.from_numpy(code.offsets).to(self._device),
            )
            self._kept[id(code)] = kept
        return kept[1], kept[2]
