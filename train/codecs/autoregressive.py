"""The joint autoregressive model: earlier latents, too, predict the Gaussian of the next one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from train.codecs.gaussian import Choose, Exact, at_each_place, on_grid
from train.codecs.hyperprior import MeanScaleHyperprior
from train.codecs.layers.transforms import CausalConv2d, CodecSize, entropy_parameters


class JointAutoregressive(MeanScaleHyperprior):
    r"""Autoregressive and hierarchical priors of Minnen, Balle and Toderici (arXiv:1809.02736).

    ```text
    x ─▶ g_a ─▶ y ─┬─ pad ─▶ h_a ─▶ z ─▶ Q ─▶ z_hat ─▶ h_s ─ crop ─▶ EP ─ scales, means ─┐
                   │                     ▲                           ▲                   │
                   │                     EB                   CP ────┘                   │
                   ▼                                           ▲                         │
                   Q ─▶ y_hat ─┬───────────────────────────────┘                         │
                   ▲           └─▶ g_s ─▶ x_hat                                          │
                   GC ◀──────────────────────────────────────────────────────────────────┘

    CP = context prediction (masked 5x5 convolution over earlier y_hat)
    EP = entropy parameters (1x1 convolutions)
    ```

    While training, CP sees noisy y and all places are computed at once. In eval mode, forward scans
    the latents exactly as the decoder has to: CompressAI's forward rounds y for CP and y - mean in
    its bitstream, so that its estimates are those of another y_hat than the decoded one.
    """

    transform_names = ("g_a", "g_s", "h_a", "h_s", "context_prediction", "entropy_parameters")

    def __init__(self, size: CodecSize) -> None:
        super().__init__(size)
        latents = size.n_channels
        self.context_prediction = CausalConv2d(latents, 2 * latents, kernel_size=5, padding=2)
        told_beside = 0 if size.context is None else 2 * latents
        self.entropy_parameters = entropy_parameters(latents, 4 * latents + told_beside)

    def fuse(self, side_channels: int) -> None:
        """Leave it to the entropy parameters, which see what the coarser levels say as well."""

    def _parameters_in_parallel(self, side: Tensor, noisy: Tensor) -> Tensor:
        context = self.transformed(self.context_prediction, noisy)
        return self.transformed(self.entropy_parameters, torch.cat((side, context), 1))

    def _scan_places(
        self, side: Tensor, shape: tuple[int, int], choose: Choose, exact: Exact
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scan wavefront by wavefront (see `wavefronts`), each for the whole batch at once."""
        batch_size, num_places, _ = side.shape
        width = shape[1]
        taps = self.context_prediction.mask[0, 0].nonzero()
        weight, bias = self._context_weight(taps), self.context_prediction.bias.double()
        network = exact(self.entropy_parameters)
        # y_hat with the margin that the 5x5 window needs: two rows above, two columns either side.
        stride = width + 4
        padded = side.new_zeros(batch_size, (shape[0] + 2) * stride, weight.shape[1] // len(taps))
        y_hat, scales, means = side.new_empty(3, batch_size, num_places, padded.shape[2])
        for places in wavefronts(shape, side.device):
            corner = places // width * stride + places % width
            window = padded[:, corner[:, None] + taps[:, 0] * stride + taps[:, 1]]
            context = functional.linear(window.flatten(2), weight, bias)
            parameters = torch.cat((side[:, places], context), 2)
            parameters = at_each_place(network, parameters)
            scales[:, places], mean = self._scales_and_means(parameters, 2)
            means[:, places] = mean = on_grid(mean)
            y_hat[:, places] = choose(places, scales[:, places], mean) + mean
            padded[:, corner + 2 * stride + 2] = y_hat[:, places]
        return y_hat, scales, means

    def _context_weight(self, taps: Tensor) -> Tensor:
        """Return the context model as a matrix, float64 [2 M, taps * M]."""
        weight: Tensor = self.context_prediction.weight.double()[:, :, taps[:, 0], taps[:, 1]]
        return weight.transpose(1, 2).flatten(1)


def wavefronts(shape: tuple[int, int], device: torch.device) -> Iterator[Tensor]:
    """Yield the places (row * w + column, int64) of latents (h, w) that can be coded together.

    The masked 5x5 window reaches two columns to the right in earlier rows. So place (row, column)
    can be coded in step column + 3 row, when all that it sees is known, which takes w + 3 (h - 1)
    steps instead of the h w of a raster scan, with the same result.
    """
    height, width = shape
    for step in range(width + 3 * (height - 1)):
        first, last = max(0, -(-(step - width + 1) // 3)), min(height - 1, step // 3)
        if first <= last:
            rows = torch.arange(first, last + 1, device=device)
            yield rows * width + step - 3 * rows
