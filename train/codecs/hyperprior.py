"""Hyperpriors: side information z tells the decoder the Gaussian of every single latent."""

from __future__ import annotations

from torch import Tensor, nn

from train.codecs.gaussian import GaussianCodec
from train.codecs.layers.transforms import (
    CodecSize,
    hyper_analysis,
    mean_scale_synthesis,
    pad_to_multiple,
    scale_synthesis,
)


class ScaleHyperprior(GaussianCodec):
    r"""Scale hyperprior of Balle et al. (ICLR 2018, arXiv:1802.01436), zero-mean Gaussians.

    ```text
    x ─▶ g_a ─▶ y ─┬─▶ |y| ─ pad ─▶ h_a ─▶ z ─▶ Q ─▶ z_hat ─▶ h_s ─ crop ─┐
                   │                            ▲                        scales
                   ▼                            EB                         │
                   Q ◀──────────────────── GC ◀────────────────────────────┘
                   │
                 y_hat ─▶ g_s ─▶ x_hat

    Q = rounding (noise while training), EB = entropy bottleneck, GC = Gaussian conditional
    ```

    h_a and h_s have two stride-2 stages each. The features are padded to a multiple of the stride
    of g_a only, and the latents to a multiple of 4 on their way into h_a, with h_s's output cropped
    to match. Features padded to a multiple of 64 would give an 8x8 map sixteen latents y instead of
    one; z is one position either way.
    """

    transform_names: tuple[str, ...] = ("g_a", "g_s", "h_a", "h_s")
    num_payloads = 2
    means_and_scales = 1
    """Numbers for each latent that h_s tells: its scale, and its mean."""

    def __init__(self, size: CodecSize) -> None:
        super().__init__(size, bottleneck_channels=size.n_hidden)

    def make_side_information(self, size: CodecSize) -> None:
        """Make h_a and h_s; beside a coarser level, what fuses what the two say."""
        self.h_a, self.h_s = self._hyper_transforms(size.n_hidden, size.n_channels)
        if size.context is not None:
            self.fuse(self.means_and_scales * size.n_channels)

    def _hyper_transforms(self, n_hidden: int, n_channels: int) -> tuple[nn.Module, nn.Module]:
        return (
            hyper_analysis(n_hidden, n_channels, nn.ReLU),
            scale_synthesis(n_hidden, n_channels),
        )

    def _hyper_latents(self, y: Tensor) -> Tensor:
        return self.transformed(self.h_a, pad_to_multiple(y.abs(), 4))


class MeanScaleHyperprior(ScaleHyperprior):
    r"""Mean and scale hyperprior of Minnen, Balle and Toderici (NeurIPS 2018, arXiv:1809.02736).

    ```text
    x ─▶ g_a ─▶ y ─┬─ pad ─▶ h_a ─▶ z ─▶ Q ─▶ z_hat ─▶ h_s ─ crop ─┐
                   │                     ▲                   scales, means
                   ▼                     EB                        │
                   Q ◀───────────── GC ◀───────────────────────────┘
                   │
                 y_hat ─▶ g_s ─▶ x_hat
    ```

    As ScaleHyperprior, but h_s predicts means too, and y is rounded to whole distances from them.
    """

    means_and_scales = 2

    def _hyper_transforms(self, n_hidden: int, n_channels: int) -> tuple[nn.Module, nn.Module]:
        return (
            hyper_analysis(n_hidden, n_channels, nn.LeakyReLU),
            mean_scale_synthesis(n_hidden, n_channels),
        )

    def _hyper_latents(self, y: Tensor) -> Tensor:
        return self.transformed(self.h_a, pad_to_multiple(y, 4))
