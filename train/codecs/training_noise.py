"""What stands for rounding while a codec trains, and where all of its random numbers come from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from train.codecs.table_holder import TableHolder


class TrainingNoise(TableHolder):
    """Noise on latents and on what is coded, drawn so that several processes share one draw."""

    input_noise: float = 0.0
    """While training, g_a sees the features with Gaussian noise on them, of so many of each
    channel's standard deviations; what x_hat is compared to has none (a denoising autoencoder,
    Vincent et al., JMLR 11, 2010). It keeps codecs from learning few samples by heart."""
    noise_share: tuple[int, int, int] | None = None
    """(first row, number of rows, rows of the whole batch) if this process holds a part of a batch.
    The noise of the whole batch is drawn and its rows are used, so that processes of one seed see
    the noise that one process would have seen. None: the batch is whole."""
    mixed_quantization: bool = False
    """Whether g_s is given rounded latents while training, and only the entropy model noisy ones:
    "mixed quantization" of Minnen and Singh (ICIP 2020, arXiv:2007.08739). A codec whose latents
    hardly cost any bits learns little of rounding from noise, which never is 0."""

    def with_noise(self, latents: Tensor) -> Tensor:
        """Return latents + U(-0.5, 0.5), as while training."""
        return latents + (self._drawn(torch.rand, latents) - 0.5)

    def with_input_noise(self, standardised: Tensor) -> Tensor:
        """Return what g_a is shown of standardised features while training."""
        if not self.input_noise:
            return standardised
        return standardised + self.input_noise * self._drawn(torch.randn, standardised)

    def for_synthesis(self, y: Tensor, noisy: Tensor, means: Tensor) -> Tensor:
        """Return what g_s is given while training of latents y whose distances to `means` are sent.

        float32 [B, M, h, w]. It rounds forwards; gradients pass as if it did not (straight
        through), and reach no mean.
        """
        if not self.mixed_quantization:
            return noisy
        with torch.no_grad():
            moved = torch.round(y - means) + means - y
        return y + moved

    def _drawn(self, draw: Callable[..., Tensor], like: Tensor) -> Tensor:
        """Return random numbers of the shape of `like`; the only source of them while training."""
        num_rows = len(like)
        first, num_mine, num_all = self.noise_share or (0, num_rows, num_rows)
        assert num_mine == num_rows, f"noise_share is for {num_mine} rows, the batch has {num_rows}"
        # Drawn contiguous: the same whatever the memory format of `like`.
        numbers = draw((num_all, *like.shape[1:]), device=like.device)
        return numbers[first : first + num_mine]
