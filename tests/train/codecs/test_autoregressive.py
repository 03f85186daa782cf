"""The scan of the autoregressive model is its masked convolution, wavefront by wavefront."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.support.tiny_codecs import features, largest_error, ready_codec
from train.codecs.autoregressive import JointAutoregressive, wavefronts


@torch.no_grad()
def test_scan_gives_the_gaussians_of_the_masked_convolution_over_its_own_latents() -> None:
    codec = ready_codec("joint_autoregressive", stages=2)
    assert isinstance(codec, JointAutoregressive)
    y = codec.g_a(codec.standardised(features(28, 44)))
    z_hat = codec.round_to_medians(codec._hyper_latents(y))
    rows = y.double().flatten(2).transpose(1, 2)
    y_hat, scales, means = codec._scan(
        z_hat, None, (7, 11), lambda places, scales, means: torch.round(rows[:, places] - means)
    )
    assert float((y_hat - rows).abs().max()) <= 0.5
    side = codec.h_s(z_hat)[..., :7, :11]
    maps = y_hat.float().transpose(1, 2).reshape(y.shape)
    weight = codec.context_prediction.weight * codec.context_prediction.mask
    context = functional.conv2d(maps, weight, codec.context_prediction.bias, padding=2)
    parameters = codec.entropy_parameters(torch.cat((side, context), 1))
    expected = parameters.flatten(2).transpose(1, 2).chunk(2, 2)
    assert largest_error(scales.float(), expected[0]) < 1e-5
    assert float((means - expected[1]).abs().max()) < 0.51 * 2**-10 + 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (4, 7), (7, 3)], ids=str)
def test_wavefronts_visit_each_place_once_and_after_all_that_it_sees(
    shape: tuple[int, int],
) -> None:
    height, width = shape
    step_of = {
        int(place): step
        for step, places in enumerate(wavefronts(shape, torch.device("cpu")))
        for place in places
    }
    assert sorted(step_of) == list(range(height * width))
    assert sum(len(places) for places in wavefronts(shape, torch.device("cpu"))) == height * width
    for place, step in step_of.items():
        row, column = divmod(place, width)
        for seen_row in range(max(0, row - 2), row + 1):
            for seen_column in range(max(0, column - 2), min(width, column + 3)):
                seen = seen_row * width + seen_column
                assert seen >= place or step_of[seen] < step
