"""Memory that is taken again: of one's own while one has it, and never more than is in use."""

from __future__ import annotations

import torch

from extract.features.reused_buffers import ReusedBuffers


def test_memory_is_ones_own_until_it_is_given_back_and_serves_images_of_like_size_then() -> None:
    buffers = ReusedBuffers(pinned=False)
    first, second = buffers.take((300, 400, 3)), buffers.take((300, 400, 3))
    first.fill_(1), second.fill_(2)
    assert first.shape == (300, 400, 3) and first.is_contiguous()
    assert first.dtype == torch.uint8 and (first == 1).all()
    places = {first.data_ptr(), second.data_ptr()}
    buffers.give_back([first, second])
    larger = [buffers.take((330, 410, 3)), buffers.take((401, 301, 3))]
    assert {each.data_ptr() for each in larger} == places
    assert buffers.take((330, 410, 3)).data_ptr() not in places


def test_images_of_every_size_are_served() -> None:
    buffers = ReusedBuffers(pinned=False)
    for shape in [(1, 1, 3), (256, 256, 1), (256, 257, 1), (2000, 3000, 3)]:
        taken = buffers.take(shape)
        assert taken.shape == shape
        buffers.give_back([taken])
