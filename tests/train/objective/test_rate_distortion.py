"""The loss is MSE + lambda * BPP over real positions, as computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from train.objective.rate_distortion import num_positions, rate_bits, rate_distortion, squared_error

# Two samples of 2 channels in a 2x4 batch; the second is really 1x3, the rest is padding.
SIZES = torch.tensor([[2, 4], [1, 3]])
X = torch.zeros(2, 2, 2, 4)
X_HAT = torch.ones(2, 2, 2, 4)
X_HAT[1, :, 0, :3] = 3.0
X_HAT[1, :, 1:, :] = 1e6
X_HAT[1, :, :, 3:] = 1e6
# 2 bits for each of the 3 latents of sample 0; 1, 2 and 3 bits in sample 1.
LIKELIHOODS = torch.tensor([[0.25, 0.25, 0.25], [0.5, 0.25, 0.125]]).reshape(2, 3, 1, 1)
OUTPUT = {"x_hat": X_HAT, "likelihoods": {"y": LIKELIHOODS}}
POSITIONS = 8 + 3
MSE = (8 * 2 * 1.0 + 3 * 2 * 9.0) / (POSITIONS * 2)
BPP = (6 + 6) / POSITIONS


def test_squared_error_counts_real_positions_only() -> None:
    assert squared_error(X_HAT, X, SIZES).tolist() == [16.0, 54.0]


def test_squared_error_without_padding_is_the_plain_sum() -> None:
    x_hat, x = torch.rand(2, 2, 5, 3, 4).unbind(0)
    sizes = torch.tensor([[3, 4]] * 2)
    assert torch.allclose(squared_error(x_hat, x, sizes), ((x_hat - x) ** 2).sum((1, 2, 3)))


def test_padding_gets_no_gradient() -> None:
    x_hat = X_HAT.clone().requires_grad_()
    squared_error(x_hat, X, SIZES).sum().backward()
    assert isinstance(x_hat.grad, Tensor)
    assert not x_hat.grad[1, :, 1:].any()
    assert not x_hat.grad[1, :, :, 3:].any()
    assert x_hat.grad[1, :, 0, :3].all()


def test_rate_is_minus_log2_of_each_samples_likelihoods() -> None:
    assert torch.allclose(rate_bits({"y": LIKELIHOODS}), torch.tensor([6.0, 6.0]))


def test_rates_of_several_latents_add_up() -> None:
    both = rate_bits({"y": LIKELIHOODS, "z": LIKELIHOODS[:, :1]})
    assert torch.allclose(both, torch.tensor([8.0, 7.0]))


def test_positions_are_the_real_ones() -> None:
    assert num_positions(SIZES) == POSITIONS


@pytest.mark.parametrize("lmbda", [0.0, 0.001, 0.5, 10.0])
def test_loss_is_mse_plus_lambda_times_bpp(lmbda: float) -> None:
    loss, mse, bpp = rate_distortion(OUTPUT, X, SIZES, lmbda)
    assert float(mse) == pytest.approx(MSE, rel=1e-6)
    assert float(bpp) == pytest.approx(BPP, rel=1e-6)
    assert float(loss) == pytest.approx(MSE + lmbda * BPP, rel=1e-6)


def test_lambda_0_gives_the_rate_no_gradient() -> None:
    likelihoods = LIKELIHOODS.clone().requires_grad_()
    output = {"x_hat": X_HAT, "likelihoods": {"y": likelihoods}}
    loss, mse, _ = rate_distortion(output, X, SIZES, 0.0)
    loss.backward()
    assert float(loss.detach()) == float(mse)
    assert likelihoods.grad is not None
    assert not likelihoods.grad.any()
